"""GPTQ for any grid: columns are rounded one after another, and each makes up for the errors of those before it.

Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022). Written
here in the equivalent form of LDLQ (Chee, Cai, Kuleshov, De Sa: "QuIP", 2023, theorem 6), which needs no inverse: with H = R Rᵀ
(`kbit.encoders.hessian`) a row loses Σ_j (e_j R_jj + v_j)², v_j = Σ_{i<j} e_i R_ij, e = w − ŵ. Left to right, column j therefore aims at

    t_j = w_j + v_j / R_jj          rounded to the nearest level of its group's scale

Scales of a group are decided when its first column is reached, for the weights that would lose nothing more if they stayed real numbers:
w_g + v_g R_gg⁻¹. With ``actorder`` the columns go by falling diagonal of H, a group's columns lie scattered, and scales are decided
beforehand for the original weights (static groups); so are those of dq8, whose groups share a super-scale.

Work is done in blocks: v of a block comes from all errors before it by one matrix product, and inside by rank-1 updates.
Memory: four float32 copies of the matrix and three float64 ones of H.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import SchemeError, ShapeError
from kbit.core.scheme import Scheme
from kbit.encoders.group_scales import GroupScales
from kbit.encoders.hessian import DAMPING, checked_hessian, damped_factor
from kbit.encoders.holes import Holes
from kbit.encoders.inputs import Weights, as_float32, as_weights
from kbit.encoders.nearest import encode
from kbit.encoders.reference import nearest_codes
from kbit.tensor.blocks import BlockLayout, logical_shape
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["BLOCK", "encode_gptq", "encode_matrix", "mean_importance"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

#: columns between two matrix products
BLOCK = 128


def encode_gptq(
    weights: Weights,
    scheme: Scheme,
    hessian: Array,
    *,
    name: str = "tensor",
    damping: float = DAMPING,
    block: int = BLOCK,
    threads: int = 0,
) -> QuantizedTensor:
    """Encode a matrix or a stack of matrices with compensated errors.

    Args:
        weights: [rows, cols] or [matrices, rows, cols] of float32, float16 or `BFloat16`.
        scheme: the recipe, ``+gptq`` among its methods. With ``imp`` scales are searched under the weights of the Hessian's diagonal.
        hessian: XᵀX of the inputs, up to a factor, [cols, cols]; for a stack [matrices, cols, cols].
        name: what errors call the tensor.
        damping: added to the Hessian's diagonal, in parts of its mean.
        block: columns between two matrix products; the result depends on it by rounding only.
        threads: threads of the native encoder; the result does not depend on it.

    Raises:
        SchemeError: a scheme without ``gptq``.
        DTypeError, ShapeError: weights or a Hessian that do not fit.
        NumericsError: NaN or Inf among the weights or in the Hessian, or a Hessian that is none.
    """
    if "gptq" not in scheme.methods:
        raise SchemeError(f"{name}: expected a scheme with '+gptq', got {scheme.text!r}")
    if scheme.parts:
        from kbit.encoders.with_parts import encode_with_parts

        return encode_with_parts(weights, scheme, hessian=hessian, name=name, damping=damping, block=block, threads=threads)
    if block < 1:
        raise ShapeError(f"{name}: expected blocks of at least one column, got {block}")
    array = as_weights(weights, name)
    matrices, rows, cols = logical_shape(array.shape)
    if hessian.shape[:-2] not in ((), (matrices,)) or (hessian.ndim == 2 and array.ndim == 3):
        raise ShapeError(f"{name}: expected a Hessian for each of {matrices} matrices, got shape {list(hessian.shape)}")
    hessians = [checked_hessian(one, cols, name) for one in hessian.reshape(-1, *hessian.shape[-2:])]
    diagonals = np.stack([mean_importance(one) for one in hessians])
    importance = None if "imp" not in scheme.methods else diagonals[0] if array.ndim == 2 else diagonals[:, None]
    first = encode(weights, replace(scheme, methods=()), name=name, importance=importance, threads=threads)
    scheme = scheme.for_row(cols)
    stacked = array.reshape(matrices, rows, cols)
    done = [
        encode_matrix(as_float32(stacked[i]), replace(matrix, scheme=scheme), one, diagonals[i], name, damping, block, threads)
        for i, (matrix, one) in enumerate(zip(first.matrices(), hessians, strict=True))
    ]
    return done[0] if array.ndim == 2 else _stacked(done, first, scheme)


def mean_importance(hessian: Array) -> Float32:
    """Its diagonal in parts of the mean; ones for a Hessian of zeros."""
    diagonal = np.diagonal(hessian).astype(np.float64)
    mean = diagonal.mean()
    return np.ones(len(diagonal), np.float32) if mean == 0 else (diagonal / mean).astype(np.float32)


def encode_matrix(
    weights: Float32,
    first: QuantizedTensor,
    hessian: Array,
    diagonal: Float32,
    name: str,
    damping: float,
    block: int,
    threads: int,
    holes: Holes | None = None,
) -> QuantizedTensor:
    """Encode one matrix, `first` being its nearest encoding; `holes` are weights that its codes do not decide."""
    order = np.argsort(-diagonal, kind="stable") if "actorder" in first.scheme.methods else np.arange(len(diagonal))
    factor = damped_factor(hessian[np.ix_(order, order)], name, damping=damping).astype(np.float32)
    scales = GroupScales(first, threads=threads)
    work = _Work(weights.T[order], factor, first, scales, order, diagonal if "imp" in first.scheme.methods else None)
    if holes is not None:
        work.holes = holes.ordered(order)
    codes = work.run(block)
    back = np.argsort(order)
    if holes is not None:
        holes.finish(weights - np.ascontiguousarray(work.error[back].T))
    scale, zero_point = scales.parts()
    planes = pack(np.ascontiguousarray(codes[back].T), first.scheme.bits)
    return replace(first, weight=planes, scale=scale, zero_point=zero_point)


class _Work:
    """One matrix at work: columns lie as rows, in the order in which they are encoded."""

    def __init__(
        self,
        columns: Float32,
        factor: Float32,
        first: QuantizedTensor,
        scales: GroupScales,
        order: npt.NDArray[np.intp],
        importance: Float32 | None,
    ) -> None:
        self.columns, self.factor, self.scales, self.importance = columns, factor, scales, importance
        self.levels = first.levels
        self.group_size = BlockLayout.of(first.scheme, *first.shape).group_size
        self.group = order // self.group_size
        self.dynamic = scales.can_decide and "actorder" not in first.scheme.methods
        self.error = np.zeros_like(columns)
        self.codes = np.empty(columns.shape, np.uint8)
        self.holes: Holes | None = None

    def run(self, block: int) -> Bytes:
        """Codes [cols, rows]."""
        cols = len(self.columns)
        span = self.group_size if self.dynamic else block
        for begin in range(0, cols, span):
            end = min(begin + span, cols)
            carried = self.factor[:begin, begin:end].T @ self.error[:begin]
            if self.dynamic or self.holes is not None:
                self._decide(begin, end, carried)
            for start in range(begin, end, block):
                stop = min(start + block, end)
                self._round(start, stop, carried[start - begin : stop - begin])
                carried[stop - begin :] += self.factor[start:stop, stop:end].T @ self.error[start:stop]
        return self.codes

    def _decide(self, begin: int, end: int, carried: Float32) -> None:
        corner = self.factor[begin:end, begin:end].astype(np.float64)
        current = self.columns[begin:end] + np.linalg.solve(corner.T, carried).astype(np.float32)
        importance = None if self.importance is None else self.importance[begin:end]
        if self.holes is not None:
            score = (current * np.diagonal(corner)[:, None].astype(np.float32)) ** 2
            current, importance = self.holes.decide(begin, end, current, score, importance)
        if self.dynamic:
            self.scales.decide(begin // self.group_size, np.ascontiguousarray(current.T), importance)

    def _round(self, start: int, stop: int, carried: Float32) -> None:
        """Round columns start…stop; `carried` is their v so far, and is used up."""
        for j in range(start, stop):
            row, group = j - start, self.group[j]
            value, zero = self.scales.value[:, group], self.scales.zero[:, group]
            target = self.columns[j] + carried[row] / self.factor[j, j]
            coded = target if self.holes is None else self.holes.coded(j, target)
            codes = nearest_codes(coded, value, zero, self.levels)
            self.codes[j] = codes
            decoded = (self.levels[codes] - zero) * value
            self.error[j] = self.columns[j] - (decoded if self.holes is None else self.holes.filled(j, decoded, target))
            carried[row + 1 :] += self.factor[j, j + 1 : stop, None] * self.error[j]


def _stacked(done: list[QuantizedTensor], first: QuantizedTensor, scheme: Scheme) -> QuantizedTensor:
    parts = {
        name: np.stack([matrix.parts()[name] for matrix in done])
        for name in ("weight", "weight_scale", "weight_zero")
        if name in first.parts()
    }
    kept = {name: part for name, part in first.parts().items() if name not in parts}
    parts["weight"] = parts["weight"].reshape(first.weight.shape)
    return QuantizedTensor.from_parts(scheme, first.shape, parts | kept)
