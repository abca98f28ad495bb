"""`quantize_folder`: a checkpoint on disk becomes a k-bit model on disk, one tensor at a time.

Nothing is held but the tensor at hand, so a model far larger than memory passes. Every finished tensor is in the journal; after a kill the
same call goes on where it stopped and ends with the same bytes. Nothing stands under the destination's name before all of it is read back.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kbit.calibrate.arithmetic import ArithmeticChoice, arithmetic_for
from kbit.calibrate.importance import Importance
from kbit.calibrate.room import Room
from kbit.calibrate.sequential import CalibrationReport
from kbit.calibrate.text import CalibrationWindows
from kbit.core.digest import digest_bytes
from kbit.core.errors import ModelError, SchemeError
from kbit.core.memory import peak_rss_bytes
from kbit.core.plan import Plan
from kbit.core.progress import Progress
from kbit.core.scheme import Scheme
from kbit.core.sizes import bytes_text
from kbit.folding.choose import DEFAULT_FOLD, FoldChoice
from kbit.model.calibrated import CalibratedModel, Calibration, as_windows, needs_calibration
from kbit.model.folded import fold_recipe, importance_of_folded
from kbit.model.importance import importance_for
from kbit.model.memory import estimate_bytes
from kbit.model.recipe import PackUnit, Recipe, make_recipe
from kbit.model.weights import encode_unit, plain_pieces
from kbit.nn.targets import Kept
from kbit.store.accounting import count_bits
from kbit.store.check import side_files
from kbit.store.folder import StoredModel, open_model
from kbit.store.header import TensorSpec
from kbit.store.manifest import Manifest, Module
from kbit.store.model_writer import DEFAULT_SHARD_BYTES, ModelWriter
from kbit.tensor.rotation import rotate_diagonal

__all__ = ["QuantizeResult", "make_manifest", "quantization_config", "quantize_folder", "source_digest"]

CONFIG_VERSION = 1


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What came of `quantize_folder`.

    Attributes:
        scheme: text of the plan's default scheme.
        bpw: bits stored for the quantized weights (codes, scales, zero points, codebooks, padding) over their number.
        bpw_file: all bits of the weight files over all parameters of the model, each tied one once.
        file_bytes: bytes of the weight files.
        seconds: wall time of this call.
        peak_rss_bytes: largest resident memory of the process so far.
        parts: part → bits; they add up to 8 · `file_bytes`.
        root: the hash that names the model.
        source_bytes: bytes of the weight files that were read.
        estimate_bytes: the peak of memory that was foreseen.
        quantized_weights, parameters: numbers of weights behind the two averages.
        modules: quantized modules.
        kept: layers left in 16 bits, and why.
        notes: what a user should know.
        calibration: what the calibration text reached (`kbit.calibrate.CalibrationReport`); None where no method needed one.
    """

    scheme: str
    bpw: float
    bpw_file: float
    file_bytes: int
    seconds: float
    peak_rss_bytes: int
    parts: Mapping[str, int]
    root: str
    source_bytes: int
    estimate_bytes: int
    quantized_weights: int
    parameters: int
    modules: int
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]
    calibration: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self) | {"parts": dict(self.parts)}


def quantize_folder(
    source: str | Path,
    destination: str | Path,
    plan: Plan | Scheme | str,
    *,
    calibration: Calibration | None = None,
    calibration_arithmetic: ArithmeticChoice = "auto",
    calibration_memory_bytes: int | None = None,
    importance: Importance | str | Path | None = None,
    fold: FoldChoice = DEFAULT_FOLD,
    resume: bool = True,
    overwrite: bool = False,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    threads: int = 0,
    progress: bool | None = None,
    files: Iterable[Path] = (),
    check: Callable[[Path], None] | None = None,
) -> QuantizeResult:
    """Encode the checkpoint in `source` (safetensors, in shards or not) into the folder `destination`.

    Args:
        source: a folder of transformers with weights in 16 or 32 bits.
        destination: the folder to be.
        plan: plan, scheme, or a scheme's text (embeddings and head then stay in 16 bits).
        calibration: text that methods such as ``+gptq`` run: a file, a `CalibrationText`, or tokens as `CalibrationWindows`. The model is
            then loaded whole and must be one of transformers with one list of layers; without such methods it is not looked at.
        calibration_arithmetic: what the text is run in: ``float32``, ``bfloat16``, or ``auto``, which is bfloat16 for large layers on a
            processor with matrix tiles for it.
        calibration_memory_bytes: memory that Hessians may take at a time; beyond it they lie in files beside `destination`. None: no limit.
        importance: mean squares of inputs, or a file of them (`kbit calibrate`, or llama.cpp's imatrix), by which ``+imp`` encodes without
            a text; the model then goes through tensor by tensor.
        fold: where all weights that it concerns are ``+rotate``, put the rotation into the weights around instead of running it
            (`kbit.folding`): all that the architecture allows, values alone, or none.
        resume: go on with work that a killed call left; False starts over.
        overwrite: replace a folder that is there, once the new one is whole.
        max_shard_bytes: most bytes of tensors in a file.
        threads: threads of the encoder, 0 for the process's default; the bytes do not depend on it.
        progress: lines on stderr (the memory estimate, then progress): True, False, or None for "where there is a stderr".
        files: what else is copied into the folder.
        check: looks at the finished folder before it takes its place, such as `kbit.allocate.gate.Gate`; what it raises leaves it under
            the name of unfinished work, `destination.partial`.

    Raises:
        SchemeError: a method needs a calibration text and there is none, or a weight has no inputs to weigh; an unknown arithmetic.
        ModelError: the source is quantized already, is the destination, or holds nothing the plan encodes.
        NumericsError: a weight is NaN or infinite; the message names tensor and index. Nothing is published.
        ResumeMismatch: unfinished work there is of another model, plan or version.
        FormatError, StorageError: a folder that is not what it should be; the destination is taken.
    """
    started = time.monotonic()
    plan = Plan.of(plan)
    source, destination = Path(source), Path(destination)
    if source.resolve() == destination.resolve():
        raise ModelError(f"expected a destination other than the source, got {destination} for both")
    room = Room(calibration_memory_bytes, destination.absolute().parent)
    with open_model(source) as stored:
        recipe = fold_recipe(stored, make_recipe(stored, plan), fold)
        windows, given = _inputs(stored, recipe, plan, calibration, importance, progress)
        manifest = make_manifest(stored, recipe, plan, windows or given)
        plain = [TensorSpec(name, origin.dtype, origin.shape) for name, origin in recipe.plain.items()]
        arithmetic = arithmetic_for(calibration_arithmetic, {name: unit.shape for name, unit in recipe.packed.items()})
        binding = {"source": source_digest(stored)} | ({} if windows is None else {"calibration_arithmetic": arithmetic})
        with ModelWriter(
            destination, manifest, plain, binding=binding, max_shard_bytes=max_shard_bytes, overwrite=overwrite, resume=resume
        ) as writer:
            calibrated = None
            if windows is not None and any(writer.pending()):
                calibrated = CalibratedModel(stored, recipe, plan, windows, room, arithmetic)
            estimate = estimate_bytes(recipe) + (0 if calibrated is None else calibrated.estimate_bytes)
            _encode_all(stored, recipe, writer, threads, progress, estimate, calibrated, given)
            config = stored.config | {"quantization_config": quantization_config(plan)}
            root = writer.finish(config, [*side_files(source), *files], check=check)
        source_bytes = stored.size_bytes
    report = None if calibrated is None else calibrated.report
    return _result(destination, plan, recipe, root, report, started=started, source_bytes=source_bytes, estimate_bytes=estimate)


def _inputs(
    stored: StoredModel,
    recipe: Recipe,
    plan: Plan,
    calibration: Calibration | None,
    importance: Importance | str | Path | None,
    progress: bool | None,
) -> tuple[CalibrationWindows | None, Importance | None]:
    """What methods look at: tokens to run, or importance that is known already; neither where no method asks."""
    if importance is not None and calibration is not None:
        raise SchemeError("expected a calibration or an importance file, got both")
    if not needs_calibration(plan, recipe):
        return None, None
    if importance is not None:
        return None, importance_for(importance, recipe)
    return as_windows(calibration, stored, plan, progress=progress), None


def _result(
    folder: Path,
    plan: Plan,
    recipe: Recipe,
    root: str,
    report: CalibrationReport | None,
    *,
    started: float,
    source_bytes: int,
    estimate_bytes: int,
) -> QuantizeResult:
    """What came of it, counted in the finished folder."""
    with open_model(folder) as packed:
        bits = count_bits(packed)
        file_bytes = packed.size_bytes
    return QuantizeResult(
        scheme=plan.default.text,
        bpw=bits.bpw,
        bpw_file=bits.bpw_file,
        file_bytes=file_bytes,
        seconds=time.monotonic() - started,
        peak_rss_bytes=peak_rss_bytes(),
        parts=bits.parts,
        root=root,
        source_bytes=source_bytes,
        estimate_bytes=estimate_bytes,
        quantized_weights=bits.quantized_weights,
        parameters=bits.parameters,
        modules=len(recipe.packed),
        kept=recipe.kept,
        notes=(*recipe.notes, *(() if report is None else report.notes())),
        calibration=None if report is None else report.to_json(),
    )


def quantization_config(plan: Plan) -> dict[str, Any]:
    """The entry of `config.json` by which transformers finds the plug-in."""
    return {"quant_method": "kbit", "version": CONFIG_VERSION, **plan.to_json()}


def _encode_all(
    stored: StoredModel,
    recipe: Recipe,
    writer: ModelWriter,
    threads: int,
    progress: bool | None,
    estimate: int,
    calibrated: CalibratedModel | None,
    importance: Importance | None,
) -> None:
    pending = list(writer.pending())
    sizes = {name: _source_bytes(stored, recipe, name) for name in pending}
    if progress is not False and sys.stderr is not None:
        print(f"quantize: memory estimate {bytes_text(estimate)}, for a model of {bytes_text(stored.size_bytes)}", file=sys.stderr)
    with Progress(sum(sizes.values()), "B", "quantize", enabled=progress) as line:
        if calibrated is not None:
            calibrated.encode_into(writer, threads=threads, done=lambda name: line.advance(sizes[name], name))
        for name in list(writer.pending()):
            if name in recipe.packed:
                unit = recipe.packed[name]
                weighed = importance.of(name, unit.shape) if importance is not None and "imp" in unit.scheme.methods else None
                if weighed is not None and "rotate" in unit.scheme.methods:
                    weighed = rotate_diagonal(weighed)
                elif weighed is not None:
                    weighed = importance_of_folded(stored, unit, weighed)
                writer.put_quantized(name, encode_unit(stored, unit, importance=weighed, threads=threads))
            elif calibrated is not None and (values := calibrated.changed(recipe.plain[name])) is not None:
                writer.put_rows(name, 0, values)
            else:
                for begin, rows in plain_pieces(stored, recipe.plain[name]):
                    writer.put_rows(name, begin, rows)
            line.advance(sizes[name], name)


def _source_bytes(stored: StoredModel, recipe: Recipe, name: str) -> int:
    origin = recipe.packed[name].origin if name in recipe.packed else recipe.plain[name]
    return sum(stored.entry(key).nbytes for key in origin.keys)


def make_manifest(stored: StoredModel, recipe: Recipe, plan: Plan, windows: CalibrationWindows | Importance | None) -> Manifest:
    """What the folder will say about itself."""
    modules = {name: _module(unit) for name, unit in recipe.packed.items()}
    base = str(stored.config.get("_name_or_path") or "")
    if windows is None:
        return Manifest(plan=plan, modules=modules, ties=dict(recipe.ties), base_model=base)
    digest, seed = windows.digest, windows.seed
    return Manifest(plan=plan, modules=modules, ties=dict(recipe.ties), base_model=base, calibration_digest=digest, seed=seed)


def _module(unit: PackUnit) -> Module:
    return Module(unit.scheme, unit.shape, unit.kind)


def source_digest(stored: StoredModel) -> str:
    """Changes when any weight file does: by name, size, time of change and the header that says where each tensor lies.

    Reading every byte as well would double the reading of a large model for a danger that the time of change already shows.
    """
    lines = []
    for name, container in sorted(stored.containers.items()):
        status = container.path.stat()
        entries = [(tensor, *container.entry(tensor)) for tensor in container.names()]
        lines.append(f"{name} {status.st_size} {status.st_mtime_ns} {entries}")
    config = sorted((key, repr(value)) for key, value in stored.config.items())
    return digest_bytes("\n".join([*lines, repr(config)]).encode())
