"""From a checkpoint's tensors to stored parts, a piece of rows at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kbit.encoders.inputs import Importance, Weights
from kbit.encoders.nearest import Piece, encode, encode_pieces, encoder_for
from kbit.model.architecture import Origin, read_tensor, to_array
from kbit.model.recipe import PackUnit
from kbit.store.folder import StoredModel
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.blocks import TILE_ROWS
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["PIECE_WEIGHTS", "encode_unit", "plain_pieces"]

Array = np.ndarray[Any, Any]

#: weights read, encoded or copied at once
PIECE_WEIGHTS = 1 << 22


def encode_unit(stored: StoredModel, unit: PackUnit, *, importance: Importance | None = None, threads: int = 0) -> QuantizedTensor:
    """The unit's weight in k bits; the same bytes as encoding it whole. `importance` is [cols], or [matrices, cols] for a stack.

    Raises:
        NumericsError: NaN or Inf, with the parameter's name and the place of the first.
    """
    if unit.scheme.parts:
        weights = _as_weights(to_array(_whole(stored, unit)), unit.origin.dtype)
        spread = importance if importance is None or importance.ndim == 1 else importance[:, None]
        return encode(weights, unit.scheme, name=unit.origin.name, importance=spread, threads=threads)
    encoder = encoder_for(unit.shape, unit.scheme, name=unit.origin.name, threads=threads)
    return encode_pieces(encoder, _Pieces(stored, unit, None if _streams(unit) else _whole(stored, unit), importance))


def plain_pieces(stored: StoredModel, origin: Origin) -> Iterator[tuple[int, Array]]:
    """A tensor that stays in 16 bits, as the container holds it: (first row, rows)."""
    if origin.fuse is not None:
        yield 0, to_array(read_tensor(stored, origin))
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


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """The packed matrix or stack of a unit, a few tiles at a time: from `whole`, or from the file."""

    stored: StoredModel
    unit: PackUnit
    whole: torch.Tensor | None
    importance: Importance | None = None

    def __iter__(self) -> Iterator[Piece]:
        *stack, rows, cols = self.unit.shape
        step = max(PIECE_WEIGHTS // cols // TILE_ROWS, 1) * TILE_ROWS
        given = self.importance
        for matrix in range(math.prod(stack)):
            for begin in range(0, rows, step):
                weights = _as_weights(self._rows(matrix, begin, min(begin + step, rows)), self.unit.origin.dtype)
                yield Piece(matrix, begin, weights, given if given is None or given.ndim == 1 else given[matrix])

    def _rows(self, matrix: int, begin: int, end: int) -> Array:
        if self.whole is None:
            return _read(self.stored, self.unit, matrix, begin, end)
        matrices = self.whole if len(self.unit.shape) == 3 else self.whole[None]
        return to_array(matrices[matrix, begin:end])


def _read(stored: StoredModel, unit: PackUnit, matrix: int, begin: int, end: int) -> Array:
    key = unit.origin.keys[0]
    if len(unit.shape) == 3:
        # one expert is read whole: a container gives rows of its first dimension
        return stored.read_rows(key, matrix, matrix + 1)[0, begin:end]
    return stored.read_rows(key, begin, end).reshape(end - begin, unit.shape[-1])


def _as_weights(array: Array, dtype: str) -> Weights:
    if dtype == "BF16":
        return BFloat16(array)
    if dtype != "F64":
        return array
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused with its place
        return array.astype(np.float32)
