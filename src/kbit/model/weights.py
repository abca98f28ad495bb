"""From a checkpoint's tensors to stored parts, a piece of rows at a time."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from kbit.encoders.inputs import Weights
from kbit.encoders.nearest import NearestEncoder, Segment
from kbit.model.architecture import Origin, read_tensor
from kbit.model.recipe import PackUnit
from kbit.store.folder import StoredModel
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.blocks import TILE_ROWS
from kbit.tensor.quantized import QuantizedTensor, part_shapes

__all__ = ["PIECE_WEIGHTS", "encode_unit", "plain_pieces"]

Array = np.ndarray[Any, Any]

#: weights read, encoded or copied at once
PIECE_WEIGHTS = 1 << 22


def encode_unit(stored: StoredModel, unit: PackUnit, *, threads: int = 0) -> QuantizedTensor:
    """The unit's weight in k bits; the same bytes as encoding it whole.

    Raises:
        NumericsError: NaN or Inf, with the parameter's name and the place of the first.
    """
    encoder = NearestEncoder(unit.shape, unit.scheme, name=unit.origin.name, threads=threads)
    whole = None if _streams(unit) else _whole(stored, unit)
    if encoder.needs_prepare:
        for matrix, begin, rows in _pieces(stored, unit, whole):
            encoder.prepare(begin, rows, matrix=matrix)
    parts = {name: np.empty(shape, dtype) for name, (shape, dtype) in part_shapes(unit.scheme, unit.shape).items()}
    _place(parts, encoder.constant_segments())
    for matrix, begin, rows in _pieces(stored, unit, whole):
        _place(parts, encoder.encode_rows(begin, rows, matrix=matrix))
    return QuantizedTensor.from_parts(unit.scheme, unit.shape, parts)


def plain_pieces(stored: StoredModel, origin: Origin) -> Iterator[tuple[int, Array]]:
    """A tensor that stays in 16 bits, as the container holds it: (first row, rows)."""
    if origin.fuse is not None:
        tensor = read_tensor(stored, origin).contiguous()
        yield 0, (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    elif not origin.shape:
        yield 0, stored.array(origin.keys[0]).reshape(1)
    else:
        rows = origin.shape[0]
        step = max(1, PIECE_WEIGHTS // max(1, math.prod(origin.shape[1:])))
        for begin in range(0, rows, step):
            yield begin, stored.read_rows(origin.keys[0], begin, min(begin + step, rows))


def _streams(unit: PackUnit) -> bool:
    """Rows of the packed matrix lie one after another in the file."""
    return unit.origin.fuse is None and not unit.transposed


def _whole(stored: StoredModel, unit: PackUnit) -> torch.Tensor:
    tensor = read_tensor(stored, unit.origin)
    return (tensor.transpose(-1, -2) if unit.transposed else tensor).reshape(unit.shape)


def _pieces(stored: StoredModel, unit: PackUnit, whole: torch.Tensor | None) -> Iterator[tuple[int, int, Weights]]:
    """(matrix, first row, rows) of the packed matrix or stack, a few tiles at a time."""
    *stack, rows, cols = unit.shape
    step = max(PIECE_WEIGHTS // cols // TILE_ROWS, 1) * TILE_ROWS
    for matrix in range(math.prod(stack)):
        for begin in range(0, rows, step):
            end = min(begin + step, rows)
            if whole is not None:
                matrices = whole if stack else whole[None]
                yield matrix, begin, _as_weights(_to_array(matrices[matrix, begin:end]), unit.origin.dtype)
            else:
                yield matrix, begin, _as_weights(_read(stored, unit, matrix, begin, end), unit.origin.dtype)


def _read(stored: StoredModel, unit: PackUnit, matrix: int, begin: int, end: int) -> Array:
    key = unit.origin.keys[0]
    if len(unit.shape) == 3:
        # one expert is read whole: a container gives rows of its first dimension
        return stored.read_rows(key, matrix, matrix + 1)[0, begin:end]
    return stored.read_rows(key, begin, end).reshape(end - begin, unit.shape[-1])


def _to_array(tensor: torch.Tensor) -> Array:
    array: Array = (tensor.contiguous().view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _as_weights(array: Array, dtype: str) -> Weights:
    if dtype == "BF16":
        return BFloat16(array)
    if dtype != "F64":
        return array
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused with its place
        return array.astype(np.float32)


def _place(parts: dict[str, Array], segments: list[Segment]) -> None:
    for segment in segments:
        parts[segment.part].reshape(-1).view(np.uint8)[segment.offset : segment.offset + segment.data.size] = segment.data
