"""Encoding of schemes with parts: what is pruned and what stays in 16 bits is chosen first, codes make the best of the rest, and a low rank
takes up what they leave.

    Ŵ = W_q (0 where pruned) + S + U·V

Codes and low rank are found in turns: codes for W, low rank for what they lose, codes for W − U·V, low rank again; the turn of the least
loss is kept. Weights in 16 bits come out as they are meant to within rounding, or, with ``gptq``, as what makes up for the errors before
them.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import NumericsError, SchemeError, ShapeError
from kbit.core.methods import refuse_uncalibrated
from kbit.core.scheme import Scheme
from kbit.encoders.gptq import encode_matrix, mean_importance
from kbit.encoders.hessian import DAMPING, checked_hessian, damped_factor
from kbit.encoders.holes import Holes
from kbit.encoders.inputs import Weights, as_float32, as_importance, as_weights
from kbit.encoders.lowrank import InputMetric, LowRankPart, fit_low_rank
from kbit.encoders.nearest import encode
from kbit.encoders.outliers import as_half, choose_columns, choose_outliers, column_parts, outlier_parts
from kbit.encoders.prune import least_scores, truncated
from kbit.encoders.reference import nearest_codes
from kbit.tensor.blocks import expand_groups, logical_shape
from kbit.tensor.pruned import pack_mask, pack_stream
from kbit.tensor.quantized import QuantizedTensor
from kbit.tensor.scales import scale_values

__all__ = ["encode_with_parts"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

#: turns of codes and low rank after the first
_TURNS = 1


def encode_with_parts(
    weights: Weights,
    scheme: Scheme,
    *,
    hessian: Array | None = None,
    importance: Array | None = None,
    name: str = "tensor",
    damping: float = DAMPING,
    block: int = 128,
    threads: int = 0,
) -> QuantizedTensor:
    """Encode a matrix or a stack of matrices by a scheme with parts.

    Args:
        weights: [rows, cols] or [matrices, rows, cols] of float32, float16 or `BFloat16`.
        scheme: the recipe.
        hessian: as for `kbit.encoders.gptq.encode_gptq`; goes with ``gptq``, and stands for the importance too.
        importance: mean square of the inputs, [cols] or what broadcasts to [matrices, 1, cols]; goes with ``imp``.
        name: what errors call the tensor.
        damping: as for `encode_gptq`.
        block: as for `encode_gptq`.
        threads: as for `encode_gptq`.

    Raises:
        SchemeError: methods without what they need, or parts that the grid or group size does not allow.
        DTypeError, ShapeError, NumericsError: as `encode` and `encode_gptq`.
    """
    array = as_weights(weights, name)
    matrices, rows, cols = logical_shape(array.shape)
    scheme = scheme.for_row(cols)
    _check(scheme, cols, name)
    inputs = _inputs(scheme, hessian, importance, array.ndim, matrices, cols, name, damping)
    values = as_float32(array).reshape(matrices, rows, cols)
    plain = replace(scheme, methods=(), parts=())
    _refuse_non_finite(values, array.shape, name)
    work = [_Matrix(values[i], scheme, inputs[i], name, damping, block, threads) for i in range(matrices)]
    if scheme.spec.outlier is not None or scheme.spec.outliercol is not None:
        largest = np.stack([one.largest() for one in work])
        first = encode(
            np.where(largest, np.float32(0), values), plain, name=name, importance=_weighed(inputs, values.shape, largest), threads=threads
        )
        for one, matrix in zip(work, first.matrices(), strict=True):
            one.choose_exact(matrix)
    for one in work:
        one.choose_pruned()
    best: tuple[float, list[_State]] | None = None
    for turn in range(1 + (_TURNS if scheme.spec.ranks(rows, cols) else 0)):
        targets = np.stack([one.left_for_codes() for one in work])
        held = np.stack([one.held() for one in work])
        first = encode(targets, plain, name=name, importance=_weighed(inputs, values.shape, held), threads=threads)
        if scheme.spec.truncate is not None and not (first.levels == 0).any():
            raise SchemeError(f"{name}: truncation needs a level of 0, which {scheme.text!r} does not have")
        for one, matrix in zip(work, first.matrices(), strict=True):
            one.encode(matrix)
        if turn or not scheme.spec.ranks(rows, cols):
            best = _better(best, work)
        if scheme.spec.ranks(rows, cols):
            for one in work:
                one.fit_low_rank()
            best = _better(best, work)
    assert best is not None
    return _assembled(best[1], work, scheme, array.shape)


def _better(best: "tuple[float, list[_State]] | None", work: "list[_Matrix]") -> "tuple[float, list[_State]]":
    loss = sum(one.loss() for one in work)
    return (loss, [one.state() for one in work]) if best is None or loss < best[0] else best


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What is known of a matrix's inputs: mean squares in parts of their mean [cols], how errors weigh, and the Hessian for ``gptq``."""

    squares: Float32
    metric: InputMetric
    hessian: Array | None
    weighs_scales: bool

    def costs(self) -> Array:
        """What a unit of squared error costs by column [cols]: with a Hessian R_jj², once later columns have made up for it."""
        return self.squares if self.metric.factor is None else np.square(np.diagonal(self.metric.factor))


def _inputs(
    scheme: Scheme, hessian: Array | None, importance: Array | None, dimensions: int, matrices: int, cols: int, name: str, damping: float
) -> list[_Inputs]:
    if "gptq" in scheme.methods:
        if hessian is None:
            refuse_uncalibrated(scheme.methods, name)
            raise SchemeError(f"{name}: expected a Hessian for {scheme.text!r}, got none")
        if hessian.ndim != dimensions or hessian.shape[:-2] not in ((), (matrices,)):
            raise ShapeError(f"{name}: expected a Hessian for each of {matrices} matrices, got shape {list(hessian.shape)}")
        checked = [checked_hessian(one, cols, name) for one in hessian.reshape(-1, *hessian.shape[-2:])]
        weighs = "imp" in scheme.methods
        return [_Inputs(mean_importance(one), InputMetric(damped_factor(one, name, damping=damping)), one, weighs) for one in checked]
    if importance is None:
        refuse_uncalibrated(scheme.methods, name)
        return [_Inputs(np.ones(cols, np.float32), InputMetric(), None, False)] * matrices
    given = as_importance(importance, (matrices, 1, cols), name)
    assert given is not None
    squares = np.broadcast_to(given, (matrices, 1, cols))[:, 0]
    return [_Inputs(one, InputMetric(diagonal=np.sqrt(one.astype(np.float64))), None, True) for one in squares]


def _weighed(inputs: list[_Inputs], shape: tuple[int, ...], held: Bools) -> Array:
    """Importance for the nearest encoder: none for weights that codes do not decide."""
    given = np.stack([one.squares for one in inputs])[:, None] if inputs[0].weighs_scales else None
    return np.where(held, np.float32(0), np.broadcast_to(np.float32(1) if given is None else given, shape))


def _refuse_non_finite(values: Float32, shape: tuple[int, ...], name: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        place = [int(i) for i in np.argwhere(~finite)[0]]
        raise NumericsError(f"{name}: expected finite weights, got {values[tuple(place)]} at {place[3 - len(shape) :]}")


def _check(scheme: Scheme, cols: int, name: str) -> None:
    if scheme.is_none or not scheme.parts:
        raise SchemeError(f"{name}: expected a scheme with parts, got {scheme.text!r}")
    keep, run = scheme.spec.keep, cols if scheme.group_size == -1 else scheme.group_size
    if keep is not None and "gptq" in scheme.methods and run != cols and run % keep[1]:
        raise SchemeError(
            f"{name}: with gptq, N:M pruning goes group by group: expected an M that divides the group size, got {scheme.text!r}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """One matrix encoded: codes in all places, which of them are pruned, what codes and 16 bits amount to, and the low rank."""

    coded: QuantizedTensor
    pruned: Bools
    total: Float32
    low: LowRankPart | None


class _Matrix:
    """One matrix at work."""

    def __init__(self, weights: Float32, scheme: Scheme, inputs: _Inputs, name: str, damping: float, block: int, threads: int) -> None:
        self._weights, self._scheme, self._inputs = weights, scheme, inputs
        self._name, self._damping, self._block, self._threads = name, damping, block, threads
        self.low: LowRankPart | None = None
        self._low = np.zeros_like(weights)
        none = np.zeros(weights.shape, np.bool_)
        self.columns, self.outliers = np.empty(0, np.int32), none
        self._holes = Holes(none.copy(), none.copy())
        self._coded: QuantizedTensor

    def largest(self) -> Bools:
        """As many weights as stay in 16 bits, by w² and what errors there cost: scales are to be those of the others."""
        spec, (rows, cols) = self._scheme.spec, self._weights.shape
        return choose_outliers(self._inputs.costs() * np.square(self._weights), spec.outliers(rows, cols) + spec.columns(cols) * rows)

    def choose_exact(self, others: QuantizedTensor) -> None:
        """Choose what stays in 16 bits by what its error costs under the scales of `others`, the encoding without the largest."""
        spec, (rows, cols) = self._scheme.spec, self._weights.shape
        scale = expand_groups(scale_values(others), others.scheme, (rows, cols))
        zero = np.zeros_like(scale) if others.zero_point is None else expand_groups(others.zero_point, others.scheme, (rows, cols))
        codes = nearest_codes(self._weights, scale, zero.astype(np.float32), others.levels)
        cost = self._inputs.costs() * np.square(self._weights - (others.levels[codes] - zero) * scale)
        self.columns = choose_columns(cost, spec.columns(cols))
        cost[:, self.columns] = 0
        self.outliers = choose_outliers(cost, spec.outliers(rows, cols))
        self._holes.exact = self.outliers.copy()
        self._holes.exact[:, self.columns] = True

    def choose_pruned(self) -> None:
        """Choose what is 0, but where GPTQ does that as it goes."""
        spec, exact, squares = self._scheme.spec, self._holes.exact, self._inputs.squares
        if spec.truncate is not None:
            self._holes.pruned = truncated(self._weights, squares, float(spec.truncate)) & ~exact
        elif spec.pruned and self._inputs.hessian is not None:
            self._holes.choose = spec
        elif spec.pruned:
            score = np.abs(self._weights) * np.sqrt(squares)
            self._holes.pruned = least_scores(np.where(exact, np.float32(-1), score), spec)

    def held(self) -> Bools:
        """Weights that codes do not decide."""
        return self._holes.exact | self._holes.pruned

    def left_for_codes(self) -> Float32:
        """What the nearest encoder is shown: 0 where codes do not decide."""
        return np.where(self.held(), np.float32(0), self._weights - self._low)

    def encode(self, nearest: QuantizedTensor) -> None:
        """Find codes, and what codes and 16 bits amount to; `nearest` is the nearest encoding of `left_for_codes`."""
        target, inputs = self._weights - self._low, self._inputs
        if inputs.hessian is None:
            self._coded = nearest
            self._holes.finish(self._filled(target))
            return
        first = replace(nearest, scheme=replace(nearest.scheme, methods=self._scheme.methods))
        arguments = (inputs.hessian, inputs.squares, self._name, self._damping, self._block, self._threads)
        self._coded = encode_matrix(target, first, *arguments, holes=self._holes)

    def _filled(self, target: Float32) -> Float32:
        """Codes, 0 where pruned, and in holes of 16 bits what comes nearest to `target`."""
        total, exact = np.where(self._holes.pruned, np.float32(0), self._coded.dequantize()), self._holes.exact
        total[exact] += as_half(target[exact] - total[exact]).view(np.float16).astype(np.float32)
        return total

    def fit_low_rank(self) -> None:
        """Let a low rank take up what codes and 16 bits leave."""
        rank = self._scheme.spec.ranks(*self._weights.shape)
        self.low = fit_low_rank(self._weights - self._holes.total, rank, self._inputs.metric)
        self._low = self.low.dense()
        if self._inputs.hessian is None:
            self._holes.finish(self._filled(self._weights - self._low))

    def loss(self) -> float:
        """Squared error of the output."""
        return self._inputs.metric.loss(self._weights - self._holes.total - self._low)

    def state(self) -> _State:
        """As it stands."""
        return _State(self._coded, self._holes.pruned.copy(), self._holes.total.copy(), self.low)


def _assembled(states: list[_State], work: list[_Matrix], scheme: Scheme, shape: tuple[int, ...]) -> QuantizedTensor:
    done = [_parts(state, one, scheme) for state, one in zip(states, work, strict=True)]
    parts = done[0]
    if len(shape) == 3:
        parts = {name: np.stack([one[name] for one in done]) for name in done[0]}
        parts["weight"] = parts["weight"].reshape(-1)
        if "weight_codebook" in parts:
            parts["weight_codebook"] = done[0]["weight_codebook"]
    return QuantizedTensor.from_parts(scheme, shape, parts)


def _parts(state: _State, work: _Matrix, scheme: Scheme) -> dict[str, Array]:
    parts: dict[str, Array] = dict(state.coded.parts())
    beside = state.total - np.where(state.pruned, np.float32(0), state.coded.dequantize())
    if scheme.spec.pruned:
        parts["weight_mask"] = pack_mask(~state.pruned)
        parts["weight"] = pack_stream(state.coded.codes(), ~state.pruned, scheme.bits)
    if scheme.spec.outlier is not None:
        parts |= outlier_parts(work.outliers, beside)
    if work.columns.size:
        parts |= column_parts(work.columns, beside)
    return parts if state.low is None else parts | state.low.parts()
