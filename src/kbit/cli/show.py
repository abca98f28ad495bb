"""`kbit show`: what is inside a stored model, tensor by tensor, with every byte accounted for. Needs no torch."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kbit.cli.options import Debug, Json
from kbit.cli.output import Output, columns, verb
from kbit.core.sizes import bytes_text

if TYPE_CHECKING:
    from kbit.store.folder import StoredModel

__all__ = ["Line", "show"]


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
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    scheme: str
    weights: int
    bytes: int
    bpw: float
    error: float | None = None


@verb
def show(
    model: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a packed or ordinary model.")],
    errors: Annotated[str | None, typer.Option("--errors", metavar="MODEL", help="Original model to hold the weights against.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="List the operations of a forward step instead.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is inside a model: kind, shape, scheme, bits per weight and bytes of every tensor, and the sum of each part."""
    from kbit.store.folder import open_model

    output = Output(json)
    with open_model(model) as stored:
        if plan:
            _show_plan(stored, output)
            return
        lines = [*_modules(stored, errors), *_plain(stored)]
        totals = _totals(lines)
        weights, file_bytes = sum(line.weights for line in lines), stored.size_bytes
        facts = {
            "path": model,
            "base_model": stored.manifest.base_model if stored.manifest else None,
            "plan": stored.manifest.plan.to_json() if stored.manifest else None,
            "root": stored.root,
            "ties": dict(stored.tied),
            "weights": weights,
            "file_bytes": file_bytes,
            "bpw_file": 8 * file_bytes / weights if weights else None,
        }
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


def _modules(stored: "StoredModel", errors: str | None) -> Iterable[Line]:
    if stored.manifest is None:
        return
    from kbit.cli.originals import Original
    from kbit.store.parts import part_names

    original = None if errors is None else Original(errors)
    for name, module in stored.manifest.modules.items():
        weights = math.prod(module.shape)
        size = sum(stored.entry(part).nbytes for part in part_names(name) if part in stored)
        error = None if original is None else original.error(name, module.kind, stored.quantized(name))
        yield Line(name, module.kind, module.shape, module.scheme.text, weights, size, 8 * size / weights, error)


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
    with_errors = any(line.error is not None for line in lines)
    header = ["name", "kind", "scheme", "shape", "bpw", "bytes", *(["error"] if with_errors else [])]
    rows = [
        [line.name, line.kind, line.scheme, "×".join(map(str, line.shape)), f"{line.bpw:.3f}", f"{line.bytes:,}"]
        + ([] if not with_errors else ["" if line.error is None else f"{line.error:.4f}"])
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
    output.say(f"{bytes_text(facts['file_bytes'])} in the weight files; root {facts['root'] or 'none: not sealed by kbit'}")
