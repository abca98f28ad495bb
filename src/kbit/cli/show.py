"""`kbit show`: what is inside a stored model, tensor by tensor, with every byte accounted for. Needs no torch."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kbit.cli.options import Debug, Json
from kbit.cli.output import Output, columns, verb
from kbit.core.errors import ModelError
from kbit.core.registry import suggest
from kbit.core.sizes import bytes_text

if TYPE_CHECKING:
    from kbit.cli.inspection import Inspected
    from kbit.cli.originals import Original
    from kbit.store.folder import StoredModel

__all__ = ["Line", "show"]

#: column of ``--errors`` → its head, and how its values are shown
_COLUMNS = {
    "error": ("error", ".4f"),
    "sqnr_db": ("SQNR dB", ".1f"),
    "kurtosis": ("kurtosis", ".2f"),
    "largest": ("largest σ", ".1f"),
    "kl": ("KL alone", ".2e"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One module or plain tensor.

    Attributes:
        name: dotted name.
        kind: linear, embedding, head, conv1d, conv2d, experts; ``tensor`` for what is not quantized.
        shape: before packing.
        scheme: text of the scheme, or the dtype of a plain tensor.
        weights: number of weights.
        bytes: all stored bytes: codes, scales, zero points, codebook, padding.
        bpw: 8 · bytes / weights.
        error: ‖W − Ŵ‖ / ‖W‖ against the original, where one was given.
        sqnr_db, kurtosis, largest, kl: see `kbit.cli.inspection.Inspected`; None without ``--errors``.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    scheme: str
    weights: int
    bytes: int
    bpw: float
    error: float | None = None
    sqnr_db: float | None = None
    kurtosis: float | None = None
    largest: float | None = None
    kl: float | None = None


@verb
def show(
    model: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a packed or ordinary model.")],
    errors: Annotated[bool, typer.Option("--errors", help="Look into the weights: outliers, sensitivity where known, and errors.")] = False,
    against: Annotated[str | None, typer.Option("--against", metavar="MODEL", help="Original model to hold the weights against.")] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write all of it as one page with pictures.")] = None,
    tensor: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Module whose weights the page draws over their levels; repeatable.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="List the operations of a forward step instead.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is inside a model: kind, shape, scheme, bits per weight and bytes of every tensor, and the sum of each part.

    With --errors also how each weight is spread (kurtosis, largest over σ), what the model loses with it alone where that was measured, and
    with --against its relative error and ratio of signal to noise; --html makes a page with pictures of it.
    """
    from kbit.store.folder import open_model

    output = Output(json)
    with open_model(model) as stored:
        if plan:
            _show_plan(stored, output)
            return
        original = None if against is None else _original(against, stored)
        inspected = _inspected(stored, original) if errors or against or html else {}
        lines = [*_modules(stored, inspected), *_plain(stored)]
        totals = _totals(lines)
        weights, file_bytes = sum(line.weights for line in lines), stored.size_bytes
        facts = {
            "path": model,
            "base_model": stored.manifest.base_model if stored.manifest else None,
            "plan": stored.manifest.plan.to_json() if stored.manifest else None,
            "root": stored.root,
            "ties": dict(stored.tied),
            "rotations": _rotations(stored),
            "weights": weights,
            "file_bytes": file_bytes,
            "bpw_file": 8 * file_bytes / weights if weights else None,
        }
        if html is not None:
            _write_page(Path(html), stored, inspected, facts, tensor or [], original, against)
    _print(output, lines, totals, facts)
    output.result({**facts, "tensors": [asdict(line) for line in lines], "totals": totals})


def _show_plan(stored: "StoredModel", output: Output) -> None:
    """The forward step as the engine runs it, an operation a line."""
    from kbit.engine.listing import plan_text
    from kbit.engine.plan import make_plan
    from kbit.engine.weights import ModelWeights

    weights = ModelWeights(stored)
    forward = make_plan(stored.config, weights)
    text = plan_text(forward, weights)
    output.say(text.rstrip("\n"))
    output.result({"architecture": forward.architecture, "operations": len(forward.ops), "buffers": forward.buffers, "plan": text})


def _original(path: str, packed: "StoredModel") -> "Original":
    from kbit.cli.originals import Original

    return Original(path, packed)


def _inspected(stored: "StoredModel", original: "Original | None") -> "dict[str, Inspected]":
    if stored.manifest is None:
        raise ModelError(f"{stored.path} is not a k-bit model: expected a folder that kbit wrote for --errors")
    from kbit.cli.inspection import inspect

    return {found.name: found for found in inspect(stored, original)}


def _write_page(
    path: Path,
    stored: "StoredModel",
    inspected: "dict[str, Inspected]",
    facts: dict[str, Any],
    chosen: list[str],
    original: "Original | None",
    against: str | None,
) -> None:
    from kbit.cli.inspection import histogram
    from kbit.cli.inspection_page import Page, render_page
    from kbit.core.files import atomic_write

    for name in chosen:
        if name not in inspected:
            raise ModelError(f"{stored.path} has no encoded module {name!r}: {suggest(name, inspected)}")
    worst = max(inspected.values(), key=lambda one: one.error or one.kurtosis)
    drawn = [found for name in chosen or [worst.name] if (found := histogram(stored, name, original)) is not None]
    with atomic_write(path) as file:
        file.write(render_page(Page(facts, list(inspected.values()), drawn, against)).encode())


def _modules(stored: "StoredModel", inspected: "dict[str, Inspected]") -> Iterable[Line]:
    if stored.manifest is None:
        return
    from kbit.store.parts import part_names

    for name, module in stored.manifest.modules.items():
        weights = math.prod(module.shape)
        size = sum(stored.entry(part).nbytes for part in part_names(name) if part in stored)
        line = Line(name, module.kind, module.shape, module.scheme.text, weights, size, 8 * size / weights)
        found = inspected.get(name)
        if found is not None:
            line = replace(line, error=found.error, sqnr_db=found.sqnr_db, kurtosis=found.kurtosis, largest=found.largest, kl=found.kl)
        yield line


def _rotations(stored: "StoredModel") -> dict[str, int]:
    """Modules whose rotation is folded into the weights around, and those that rotate their inputs as they run."""
    modules = {} if stored.manifest is None else stored.manifest.modules
    counts = {"folded": "folded", "online": "rotate"}
    return {name: sum(word in module.scheme.methods for module in modules.values()) for name, word in counts.items()}


def _plain(stored: "StoredModel") -> Iterable[Line]:
    for name in stored.plain_names():
        entry = stored.entry(name)
        weights = math.prod(entry.shape)
        yield Line(name, "tensor", entry.shape, entry.dtype.lower(), weights, entry.nbytes, 8 * entry.nbytes / weights)


def _totals(lines: Iterable[Line]) -> dict[str, dict[str, Any]]:
    """Weights, bytes and bits per weight of each kind."""
    sums: dict[str, tuple[int, int]] = {}
    for line in lines:
        weights, size = sums.get(line.kind, (0, 0))
        sums[line.kind] = weights + line.weights, size + line.bytes
    return {kind: {"weights": weights, "bytes": size, "bpw": 8 * size / weights} for kind, (weights, size) in sums.items()}


def _print(output: Output, lines: list[Line], totals: dict[str, dict[str, Any]], facts: dict[str, Any]) -> None:
    shown = [column for column in _COLUMNS if any(getattr(line, column) is not None for line in lines)]
    header = ["name", "kind", "scheme", "shape", "bpw", "bytes", *(_COLUMNS[column][0] for column in shown)]
    rows = [
        [line.name, line.kind, line.scheme, "×".join(map(str, line.shape)), f"{line.bpw:.3f}", f"{line.bytes:,}"]
        + ["" if getattr(line, column) is None else format(getattr(line, column), _COLUMNS[column][1]) for column in shown]
        for line in lines
    ]
    output.say(columns(header, rows, left=3))
    output.say()
    parts = [[kind, f"{total['weights']:,}", f"{total['bytes']:,}", f"{total['bpw']:.3f}"] for kind, total in totals.items()]
    whole = ["whole file", f"{facts['weights']:,}", f"{facts['file_bytes']:,}", f"{facts['bpw_file'] or 0:.3f}"]
    output.say(columns(["part", "weights", "bytes", "bpw"], [*parts, whole]))
    output.say()
    for alias, owner in facts["ties"].items():
        output.say(f"{alias} is {owner} (stored once)")
    rotations = facts["rotations"]
    if any(rotations.values()):
        output.say(f"rotation folded into the weights around for {rotations['folded']} modules, online for {rotations['online']}")
    output.say(f"{bytes_text(facts['file_bytes'])} in the weight files; root {facts['root'] or 'none: not sealed by kbit'}")
