"""`ProgramWeights`: the weights of a plan as a native program holds them, each loaded once and known by its number from then on.

Packed matrices run as they are stored. Two cases are put in order first: a slice of a packed matrix that does not begin at a tile of
16 rows is packed anew (the same codes, shifted), and a dense matrix stored as [inputs, outputs] is transposed.
"""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import ModelError
from kbit.engine.ops import Part, WeightSlice
from kbit.engine.weights import Dense, ModelWeights
from kbit.kernels.cpu import PreparedMatrix
from kbit.native import _kbit
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.blocks import TILE_ROWS, rows_of_tiles, tiles_of_rows
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor
from kbit.tensor.trellis import pack_steps, unpack_steps

__all__ = ["ProgramWeights", "rows_of"]


class ProgramWeights:
    """Weights of one native program.

    Args:
        native: the program that they are given to.
        weights: where they are read.
    """

    def __init__(self, native: _kbit.Program, weights: ModelWeights) -> None:
        self.native, self._weights = native, weights
        self._numbers: dict[tuple[str, int, int, bool], int] = {}
        self._vectors: dict[tuple[str, bool], int] = {}
        self._held: dict[str, QuantizedTensor | Dense] = {}

    def forget(self) -> None:
        """Let go of what was read: what runs is held by the native program."""
        self._held.clear()

    def vector(self, name: str, *, plus_one: bool = False) -> int:
        """Number of a norm's weight or a bias."""
        key = (name, plus_one)
        if key not in self._vectors:
            info = self._weights.find(name)
            if info is None:
                raise ModelError(f"expected a vector {name!r}, got no such tensor")
            values = self._weights.vector(name, info.shape[0])
            self._vectors[key] = self.native.vector(np.ascontiguousarray(values + np.float32(1) if plus_one else values, np.float32))
        return self._vectors[key]

    def part(self, part: Part) -> tuple[int, int, int, int | None, int]:
        """A `Part` in numbers: matrix, rows [begin, end), bias, and where its outputs go."""
        rows = self._rows(part.weight)
        bias = None if part.bias is None else self.vector(part.bias)
        begin = part.weight.begin
        end = rows if part.weight.end < 0 else part.weight.end
        packed = isinstance(self.read(part.weight.name), QuantizedTensor)
        if packed and (begin % TILE_ROWS or (end % TILE_ROWS and end != rows)):
            return self.matrix(WeightSlice(part.weight.name, begin, end)), 0, end - begin, bias, part.at
        return self.matrix(WeightSlice(part.weight.name, transposed=part.weight.transposed)), begin, end, bias, part.at

    def _rows(self, weight: WeightSlice) -> int:
        shape = self.read(weight.name).shape
        return int(shape[-1] if weight.transposed else shape[-2])

    def read(self, name: str) -> QuantizedTensor | Dense:
        """A weight, read once; tied names are one."""
        info = self._weights.find(name)
        if info is None:
            raise ModelError(f"expected a matrix {name!r}, got no such tensor")
        if info.owner not in self._held:
            self._held[info.owner] = self._weights.load(name)
        return self._held[info.owner]

    def matrix(self, weight: WeightSlice, *, dense: bool = False) -> int:
        """Number of a matrix; `dense` asks for one that is not packed."""
        info = self._weights.find(weight.name)
        assert info is not None, "the plan looked"
        key = (info.owner, weight.begin, weight.end, weight.transposed or dense)
        if key not in self._numbers:
            self._numbers[key] = self._load(weight, dense=dense)
        return self._numbers[key]

    def _load(self, weight: WeightSlice, *, dense: bool) -> int:
        value = self.read(weight.name)
        if isinstance(value, QuantizedTensor) and dense:
            return self.dense(np.asarray(value.dequantize(), np.float32))
        if isinstance(value, QuantizedTensor):
            whole = weight.begin == 0 and weight.end < 0
            return self._packed(value if whole else rows_of(value, weight.begin, weight.end))
        return self.dense(_transposed(value) if weight.transposed else value)

    def stack(self, name: str) -> list[int]:
        """Numbers of a stack's matrices."""
        value = self.read(name)
        if isinstance(value, QuantizedTensor):
            return [self._packed(matrix) for matrix in value.matrices()]
        return [self.dense(value[index]) for index in range(value.shape[0])]

    def _packed(self, value: QuantizedTensor) -> int:
        number: int = self.native.packed(PreparedMatrix(value).native)
        return number

    def dense(self, value: Dense) -> int:
        """Number of a matrix that is made here."""
        bits = value.bits if isinstance(value, BFloat16) else value
        kind = 2 if isinstance(value, BFloat16) else {np.dtype(np.float32): 0, np.dtype(np.float16): 1}[value.dtype]
        data = np.ascontiguousarray(bits)
        number: int = self.native.dense(data.reshape(-1).view(np.uint8), kind, *data.shape)
        return number


def rows_of(value: QuantizedTensor, begin: int, end: int) -> QuantizedTensor:
    """Rows [begin, end) of a packed matrix, packed anew: the same codes and scales in tiles of their own."""
    rows, _ = value.shape

    def cut(part: NDArray[Any]) -> NDArray[Any]:
        return tiles_of_rows(rows_of_tiles(part, rows)[begin:end])

    if value.scheme.scale_dtype == "dq8":
        raise ModelError(f"rows {begin}…{end} of a matrix with double-quantized scales do not begin at a tile of {TILE_ROWS} rows")
    if value.extra:
        raise ModelError(
            f"rows {begin}…{end} of a matrix in {value.scheme} do not begin at a tile of {TILE_ROWS} rows: its parts cannot be cut"
        )
    return QuantizedTensor(
        value.scheme,
        (end - begin, value.shape[1]),
        _packed_rows(value, begin, end),
        cut(value.scale),
        value.super_scale,
        None if value.zero_point is None else cut(value.zero_point),
        value.codebook,
    )


def _packed_rows(value: QuantizedTensor, begin: int, end: int) -> NDArray[np.uint8]:
    (rows, cols), bits = value.shape, value.scheme.bits
    if value.scheme.grid == "trellis":
        return pack_steps(unpack_steps(value.weight, rows, cols, bits, row_begin=begin, row_end=end), bits)
    return pack(np.ascontiguousarray(value.codes()[begin:end]), bits)


def _transposed(value: Dense) -> Dense:
    if isinstance(value, BFloat16):
        return BFloat16(np.ascontiguousarray(value.bits.T))
    return cast("Dense", np.ascontiguousarray(value.T))
