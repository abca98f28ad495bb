"""From a plan to the native step: weights loaded once each, names and buffers resolved to numbers.

Packed matrices run as they are stored. Two cases are put in order first: a slice of a packed matrix that does not begin at a tile of
16 rows is packed anew (the same codes, shifted), and a dense matrix stored as [inputs, outputs] is transposed.
"""

from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import ModelError, ShapeError
from kbit.engine.ops import (
    Activation,
    Attention,
    Embed,
    Experts,
    ForwardPlan,
    Heads,
    Linear,
    Norm,
    Normalize,
    Op,
    Part,
    Select,
    WeightSlice,
)
from kbit.engine.weights import Dense, ModelWeights
from kbit.kernels.cpu import PreparedMatrix
from kbit.native import _kbit
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.blocks import TILE_ROWS, rows_of_tiles, tiles_of_rows
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["MAX_ROWS", "NativeProgram"]

#: rows of a step at most
MAX_ROWS = 4096

_ACTIVATIONS = {name: number for number, name in enumerate(get_args(Activation))}
_SOURCES = {"token": 0, "position": 1, "type": 2}
_NORMS = {"rms": 1, "layer": 2}
_NO_NORM = (0, None, None, 0.0)


class NativeProgram:
    """A plan ready to run.

    Args:
        plan: what a step computes.
        weights: read here, once for each stored matrix; what they are read into stays alive with the program.
        max_rows: rows of a step, 1…4096.
        threads: of a step at most.

    Attributes:
        native: the compiled program.
        workspace_bytes: memory that a step works in, besides weights and cache.
    """

    def __init__(self, plan: ForwardPlan, weights: ModelWeights, *, max_rows: int, threads: int) -> None:
        if not 1 <= max_rows <= MAX_ROWS:
            raise ShapeError(f"max_rows: expected 1…{MAX_ROWS}, got {max_rows}")
        self.native = _kbit.Program(max_rows)
        self._weights = weights
        self._numbers: dict[tuple[str, int, int, bool], int] = {}
        self._vectors: dict[tuple[str, bool], int] = {}
        self._held: dict[str, QuantizedTensor | Dense] = {}
        self._buffers = {name: self.native.buffer(width) for name, width in plan.buffers.items()}
        for op in plan.ops:
            self._add(op)
        self._held.clear()  # what runs is held by the native program
        self.native.finish(self._buffers[plan.result], threads)
        self.workspace_bytes: int = self.native.workspace_bytes()

    def _add(self, op: Op) -> None:
        match op:
            case Embed():
                table = self._matrix(op.table)
                self.native.embed(table, self._buffers[op.out], _SOURCES[op.source], op.scale, op.offset, op.accumulate)
            case Normalize():
                self.native.normalize(self._buffers[op.source], self._buffers[op.out], self._norm(op.norm), op.accumulate)
            case Linear():
                self._add_linear(op)
            case Attention():
                self._add_attention(op)
            case Experts():
                self._add_experts(op)
            case Select():
                self.native.select(self._buffers[op.source], self._buffers[op.out])
            case _:
                raise ModelError(f"the native step has no {type(op).__name__}: ReferenceEngine runs this plan")

    def _add_linear(self, op: Linear) -> None:
        self.native.linear(
            self._buffers[op.source],
            self._norm(op.norm),
            [self._part(part) for part in op.parts],
            self._buffers[op.out],
            _ACTIVATIONS[op.activation],
            op.gated,
            op.accumulate,
            op.scale,
            op.softcap or 0.0,
        )

    def _add_attention(self, op: Attention) -> None:
        if op.relative is not None:
            raise ModelError("the native step has no biases by distance: ReferenceEngine runs this plan")
        rotary = op.rotary
        frequencies = None if rotary is None else self.native.vector(np.asarray(rotary.frequencies, np.float32))
        slopes = self.native.vector(alibi_slopes(op.heads)) if op.alibi else None
        self.native.attention(
            op.layer,
            self._heads(op.q),
            self._heads(op.k),
            self._heads(op.v),
            self._buffers[op.out],
            op.heads,
            op.kv_heads,
            op.head_dim,
            op.scale,
            op.softcap or 0.0,
            op.causal,
            frequencies,
            rotary is not None and rotary.interleaved,
            1.0 if rotary is None else rotary.factor,
            self._norm(op.q_norm),
            self._norm(op.k_norm),
            op.window or 0,
            slopes,
        )

    def _add_experts(self, op: Experts) -> None:
        self.native.experts(
            self._buffers[op.source],
            self._buffers[op.out],
            self._norm(op.norm),
            self._matrix(op.router, dense=True),
            self._stack(op.gate_up),
            self._stack(op.down),
            op.top_k,
            op.normalize,
            op.accumulate,
            _ACTIVATIONS[op.activation],
        )

    def _heads(self, heads: Heads) -> tuple[int, int, int]:
        return self._buffers[heads.buffer], heads.at, heads.stride

    def _norm(self, norm: Norm | None) -> tuple[int, int | None, int | None, float]:
        if norm is None:
            return _NO_NORM
        weight = None if norm.weight is None else self._vector(norm.weight, plus_one=norm.plus_one)
        bias = None if norm.bias is None else self._vector(norm.bias)
        return _NORMS[norm.kind], weight, bias, norm.eps

    def _vector(self, name: str, *, plus_one: bool = False) -> int:
        key = (name, plus_one)
        if key not in self._vectors:
            info = self._weights.find(name)
            if info is None:
                raise ModelError(f"expected a vector {name!r}, got no such tensor")
            values = self._weights.vector(name, info.shape[0])
            self._vectors[key] = self.native.vector(np.ascontiguousarray(values + np.float32(1) if plus_one else values, np.float32))
        return self._vectors[key]

    def _part(self, part: Part) -> tuple[int, int, int, int | None, int]:
        rows = self._rows(part.weight)
        bias = None if part.bias is None else self._vector(part.bias)
        begin = part.weight.begin
        end = rows if part.weight.end < 0 else part.weight.end
        packed = isinstance(self._read(part.weight.name), QuantizedTensor)
        if packed and (begin % TILE_ROWS or (end % TILE_ROWS and end != rows)):
            return self._matrix(WeightSlice(part.weight.name, begin, end)), 0, end - begin, bias, part.at
        return self._matrix(WeightSlice(part.weight.name, transposed=part.weight.transposed)), begin, end, bias, part.at

    def _rows(self, weight: WeightSlice) -> int:
        shape = self._read(weight.name).shape
        return int(shape[-1] if weight.transposed else shape[-2])

    def _read(self, name: str) -> QuantizedTensor | Dense:
        """A weight, read once; tied names are one."""
        info = self._weights.find(name)
        if info is None:
            raise ModelError(f"expected a matrix {name!r}, got no such tensor")
        if info.owner not in self._held:
            self._held[info.owner] = self._weights.load(name)
        return self._held[info.owner]

    def _matrix(self, weight: WeightSlice, *, dense: bool = False) -> int:
        info = self._weights.find(weight.name)
        assert info is not None, "the plan looked"
        key = (info.owner, weight.begin, weight.end, weight.transposed or dense)
        if key not in self._numbers:
            self._numbers[key] = self._load(weight, dense=dense)
        return self._numbers[key]

    def _load(self, weight: WeightSlice, *, dense: bool) -> int:
        value = self._read(weight.name)
        if isinstance(value, QuantizedTensor) and dense:
            return self._dense(np.asarray(value.dequantize(), np.float32))
        if isinstance(value, QuantizedTensor):
            whole = weight.begin == 0 and weight.end < 0
            return self._packed(value if whole else rows_of(value, weight.begin, weight.end))
        return self._dense(_transposed(value) if weight.transposed else value)

    def _stack(self, name: str) -> list[int]:
        value = self._read(name)
        if isinstance(value, QuantizedTensor):
            return [self._packed(matrix) for matrix in value.matrices()]
        return [self._dense(value[index]) for index in range(value.shape[0])]

    def _packed(self, value: QuantizedTensor) -> int:
        number: int = self.native.packed(PreparedMatrix(value).native)
        return number

    def _dense(self, value: Dense) -> int:
        bits = value.bits if isinstance(value, BFloat16) else value
        kind = 2 if isinstance(value, BFloat16) else {np.dtype(np.float32): 0, np.dtype(np.float16): 1}[value.dtype]
        data = np.ascontiguousarray(bits)
        number: int = self.native.dense(data.reshape(-1).view(np.uint8), kind, *data.shape)
        return number


def alibi_slopes(heads: int) -> NDArray[np.float32]:
    """Slopes of ALiBi (Press et al. 2022) as BLOOM has them: a geometric series; between two powers of two, every other one of the next."""
    power = 1 << (heads.bit_length() - 1)
    first = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    rest = [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - power)]
    return np.asarray(first + rest, np.float32)


def rows_of(value: QuantizedTensor, begin: int, end: int) -> QuantizedTensor:
    """Rows [begin, end) of a packed matrix, packed anew: the same codes and scales in tiles of their own."""
    rows, _ = value.shape

    def cut(part: NDArray[Any]) -> NDArray[Any]:
        return tiles_of_rows(rows_of_tiles(part, rows)[begin:end])

    if value.scheme.scale_dtype == "dq8":
        raise ModelError(f"rows {begin}…{end} of a matrix with double-quantized scales do not begin at a tile of {TILE_ROWS} rows")
    return QuantizedTensor(
        value.scheme,
        (end - begin, value.shape[1]),
        pack(np.ascontiguousarray(value.codes()[begin:end]), value.scheme.bits),
        cut(value.scale),
        value.super_scale,
        None if value.zero_point is None else cut(value.zero_point),
        value.codebook,
    )


def _transposed(value: Dense) -> Dense:
    if isinstance(value, BFloat16):
        return BFloat16(np.ascontiguousarray(value.bits.T))
    return cast("Dense", np.ascontiguousarray(value.T))
