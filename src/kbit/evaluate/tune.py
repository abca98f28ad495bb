"""`kbit bench --tune`: measures which variant of the kernels is the fastest for each kind of matrix, and keeps the answer.

Matrices are as far from the processor as a model puts them: between two reads of one lie the bytes of all of them, up to 512 MiB.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kbit import native
from kbit.core.errors import ModelError, SchemeError
from kbit.core.scheme import Scheme
from kbit.kernels.cpu import PreparedMatrix
from kbit.kernels.measure import STREAM_BYTES, Streamed, Timer, measure_choices
from kbit.kernels.select import default_variant
from kbit.kernels.tuning import Choice, Tuning, machine, store_tuning, tuning_path
from kbit.kernels.variants import Kind, Variant
from kbit.store.folder import StoredModel, open_model
from kbit.tensor.blocks import code_cols
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor, part_shapes

__all__ = ["SCHEMES", "SHAPES", "Tuned", "tune"]

#: layer shapes of models of 1B and 8B parameters
SHAPES = ((2048, 2048), (8192, 2048), (2048, 8192), (4096, 4096), (14336, 4096), (4096, 14336))
#: data types whose codebooks are lines, and those whose are none
SCHEMES = ("int1:g64", "int2:g64", "int3:g64", "int4:g64", "int8:g64", "nf2:g64", "nf3:g64", "nf4:g64", "nf6:g64")

#: makes the timer of a matrix that is read anew every so many bytes
MakeTimer = Callable[[QuantizedTensor, int], Timer]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What `tune` chose, beside what was there without it.

    Attributes:
        path: file that it was stored in.
        tuning: the choices.
        defaults: the variant that each choice competed with.
    """

    path: Path
    tuning: Tuning
    defaults: tuple[Variant, ...]


def tune(
    model: Path | str | None = None,
    *,
    threads: int = 0,
    rounds: int = 5,
    make_timer: MakeTimer | None = None,
    progress: Callable[[Choice], None] = lambda choice: None,
) -> Tuned:
    """Measure every kind of matrix of a model, or a standard set, and store the choices for this machine.

    Args:
        model: folder of a packed model.
        threads: measured beside one thread; 0 takes every core this process may use.
        rounds: medians are taken of.
        make_timer: instead of the clock.
        progress: takes each choice as it is made.

    Raises:
        ModelError: a model without packed matrices.
        SchemeError: the choices have no place: `KBIT_TUNING` is empty, or there is no home folder.
    """
    path = tuning_path()
    if path is None:
        raise SchemeError("no place for a tuning: expected KBIT_TUNING to name a file, or a home folder and no such variable")
    isa, counts = native.isa(), tuple(sorted({1, threads or native.threads()}))
    choices: list[Choice] = []
    with ExitStack() as stack:
        matrices, stream_bytes = _standard_matrices(), STREAM_BYTES
        if model is not None:
            stored = stack.enter_context(open_model(model))
            matrices, stream_bytes = _model_matrices(stored), _packed_bytes(stored)
        seen: set[Kind] = set()
        for quantized in matrices:
            kind = PreparedMatrix(quantized).kind
            if kind in seen:
                continue
            seen.add(kind)
            timer = (make_timer or _clock)(quantized, min(stream_bytes, STREAM_BYTES))
            for choice in measure_choices(kind, timer, isa=isa, threads=counts, rounds=rounds):
                choices.append(choice)
                progress(choice)
    if not choices:
        raise ModelError(f"{model}: expected a packed model, got one without packed matrices: there is nothing to choose")
    tuning = Tuning(machine(isa), counts, tuple(choices))
    store_tuning(path, tuning)
    return Tuned(path, tuning, tuple(default_variant(c.kind, c.tokens, isa) for c in choices))


def _clock(quantized: QuantizedTensor, stream_bytes: int) -> Timer:
    return Streamed(quantized, stream_bytes).seconds


def _model_matrices(stored: StoredModel) -> Iterator[QuantizedTensor]:
    """A matrix of each scheme and shape."""
    seen: set[tuple[Scheme, tuple[int, ...]]] = set()
    for name, module in {} if stored.manifest is None else stored.manifest.modules.items():
        key = (module.scheme, tuple(module.shape[-2:]))
        if key not in seen:
            seen.add(key)
            yield next(iter(stored.quantized(name).matrices()))


def _packed_bytes(stored: StoredModel) -> int:
    modules = () if stored.manifest is None else stored.manifest.modules
    return sum(stored.entry(f"{name}.weight").nbytes for name in modules)


def _standard_matrices() -> Iterator[QuantizedTensor]:
    for text in SCHEMES:
        for shape in SHAPES:
            yield random_matrix(Scheme.parse(text), shape)


def random_matrix(scheme: Scheme, shape: tuple[int, int]) -> QuantizedTensor:
    """Random codes with scales of 1, for a data type whose levels follow from its name."""
    rng = np.random.default_rng(0)
    parts = {name: np.zeros(size, dtype) for name, (size, dtype) in part_shapes(scheme, shape).items()}
    parts["weight_scale"] = np.full_like(parts["weight_scale"], np.float16(1).view(np.uint16))
    empty = QuantizedTensor.from_parts(scheme, shape, parts)
    codes = rng.integers(0, len(empty.levels), (shape[0], code_cols(scheme, shape[1])), np.uint8)
    return QuantizedTensor.from_parts(scheme, shape, parts | {"weight": pack(codes, scheme.bits)})
