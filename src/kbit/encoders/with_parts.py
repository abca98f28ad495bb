"""Encoding of schemes with parts: what is pruned and what stays in 16 bits is chosen first, codes make the best of the rest, and a low rank
takes up what they leave.

    Ŵ = W_q (0 where pruned; of a cascade all of its levels) + S + U·V

Codes and low rank are found in turns: codes for W, low rank for what they lose, codes for W − U·V, low rank again; the turn of the least
loss is kept. Weights in 16 bits come out as they are meant to within rounding, or, with ``gptq``, as what makes up for the errors before
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import SchemeError
from kbit.core.methods import refuse_uncalibrated
from kbit.core.parts import CASCADES
from kbit.core.scheme import Scheme
from kbit.encoders.cascade import encode_cascade, encode_successively, rounded_by
from kbit.encoders.gptq import Effort, encode_free, encode_matrices, mean_importance
from kbit.encoders.hessian import damped_factor
from kbit.encoders.holes import Holes
from kbit.encoders.inputs import as_importance, finite_float32
from kbit.encoders.lowrank import InputMetric, LowRankPart, fit_low_rank
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
    array: Array,
    scheme: Scheme,
    *,
    name: str,
    importance: Array | None = None,
    hessians: Sequence[Array] = (),
    effort: Effort | None = None,
    threads: int = 0,
) -> QuantizedTensor:
    """Encode a matrix or a stack of matrices by a scheme with parts; `encode` and `encode_gptq` come here.

    Args:
        array: what `as_weights` returns, [rows, cols] or [matrices, rows, cols], rotated already where the scheme says so.
        scheme: the recipe, as a weight of such rows is recorded.
        name: what errors call the tensor.
        importance: mean square of the inputs, [cols] or what broadcasts to [matrices, 1, cols]; without ``gptq``.
        hessians: checked, one for each matrix, of the inputs as the codes see them; with ``gptq``, and stand for the importance too.
        effort: goes with `hessians`.
        threads: threads of the nearest encoder without `hessians`; the result does not depend on it.

    Raises:
        SchemeError: methods without what they need, or parts that the grid or group size does not allow.
        DTypeError, ShapeError, NumericsError: as `encode` and `encode_gptq`.
    """
    matrices, rows, cols = logical_shape(array.shape)
    _check(scheme, cols, name)
    values = finite_float32(array, name).reshape(matrices, rows, cols)
    inputs = _inputs_seen(scheme, hessians, effort) if effort is not None else _inputs_weighed(scheme, importance, matrices, cols, name)
    work = [_Matrix(values[i], scheme, inputs[i]) for i in range(matrices)]
    coder = _Coder(scheme, name, inputs, hessians, effort, threads)
    if scheme.spec.outlier is not None or scheme.spec.outliercol is not None:
        largest = np.stack([one.largest() for one in work])
        for one, matrix in zip(work, coder.nearest(values, largest), strict=True):
            one.choose_exact(matrix)
    for one in work:
        one.choose_pruned()
    best: tuple[float, list[_State]] | None = None
    ranked = scheme.spec.ranks(rows, cols) > 0
    for turn in range(1 + (_TURNS if ranked else 0)):
        for one, matrix in zip(work, coder.encode(work), strict=True):
            one.take(matrix)
        if turn or not ranked:
            best = _better(best, work)
        if ranked:
            for one in work:
                one.fit_low_rank()
            best = _better(best, work)
    assert best is not None
    done = [_assembled(state, one, scheme) for state, one in zip(best[1], work, strict=True)]
    return done[0] if array.ndim == 2 else QuantizedTensor.stack(done)


def _better(best: "tuple[float, list[_State]] | None", work: "list[_Matrix]") -> "tuple[float, list[_State]]":
    loss = sum(one.loss() for one in work)
    return (loss, [one.state() for one in work]) if best is None or loss < best[0] else best


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What is known of a matrix's inputs: mean squares in parts of their mean [cols], how errors weigh, and the Hessian for ``gptq``."""

    squares: Float32
    metric: InputMetric
    hessian: Array | None = None
    weighs_scales: bool = True

    def costs(self) -> Array:
        """What a unit of squared error costs by column [cols]: with a Hessian R_jj², once later columns have made up for it."""
        return self.squares if self.metric.factor is None else np.square(np.diagonal(self.metric.factor))


def _inputs_seen(scheme: Scheme, hessians: Sequence[Array], effort: Effort) -> list[_Inputs]:
    return [
        _Inputs(mean_importance(one), InputMetric(damped_factor(one, effort.name, damping=effort.damping)), one, "imp" in scheme.methods)
        for one in hessians
    ]


def _inputs_weighed(scheme: Scheme, importance: Array | None, matrices: int, cols: int, name: str) -> list[_Inputs]:
    if importance is None or "gptq" in scheme.methods:
        refuse_uncalibrated(scheme.methods, name)
    given = as_importance(importance, (matrices, 1, cols), name)
    if given is None:
        return [_Inputs(np.ones(cols, np.float32), InputMetric(), weighs_scales=False)] * matrices
    squares = np.broadcast_to(given, (matrices, 1, cols))[:, 0]
    return [_Inputs(one, InputMetric(diagonal=np.sqrt(one.astype(np.float64)))) for one in squares]


def _check(scheme: Scheme, cols: int, name: str) -> None:
    keep, run = scheme.spec.keep, cols if scheme.group_size == -1 else scheme.group_size
    if keep is not None and "gptq" in scheme.methods and run != cols and run % keep[1]:
        raise SchemeError(
            f"{name}: with gptq, N:M pruning goes group by group: expected an M that divides the group size, got {scheme.text!r}"
        )


class _Coder:
    """What finds codes: the nearest encoder, or GPTQ. It sees weights that are rotated already, and knows of no parts."""

    def __init__(
        self, scheme: Scheme, name: str, inputs: list[_Inputs], hessians: Sequence[Array], effort: Effort | None, threads: int
    ) -> None:
        levels = tuple(word for word in scheme.parts if word.startswith(CASCADES))
        self._scheme = replace(scheme, methods=tuple(method for method in scheme.methods if method != "rotate"), parts=levels)
        self._text, self._truncates, self._name = scheme.text, scheme.spec.truncate is not None, name
        self._weighs = np.stack([one.squares for one in inputs]) if inputs[0].weighs_scales else None
        self._hessians, self._effort = hessians, effort
        self._threads = threads if effort is None else effort.threads

    def encode(self, work: "Sequence[_Matrix]") -> list[QuantizedTensor]:
        """Codes for what the low ranks leave of the matrices, each free in its holes."""
        targets, effort = np.stack([one.target() for one in work]), self._effort
        if effort is None:
            done = self.nearest(targets, np.stack([one.holes.held for one in work]))
        else:
            holes = [one.holes for one in work] if any(one.holes.any for one in work) else None
            if self._scheme.spec.successive:
                return encode_successively(targets, self._scheme, lambda left, level: encode_matrices(left, level, self._hessians, effort))
            if self._scheme.parts:
                return encode_cascade(
                    targets, self._scheme, name=self._name, hessians=self._hessians, effort=effort, holes=holes, threads=self._threads
                )
            done = encode_matrices(targets, self._scheme, self._hessians, effort, holes)
        if self._truncates and not (done[0].levels == 0).any():
            raise SchemeError(f"{self._name}: truncation needs a level of 0, which {self._text!r} does not have")
        return done

    def nearest(self, values: Float32, held: Bools) -> list[QuantizedTensor]:
        """The nearest encoding of `values` [matrices, rows, cols] in which those that are `held` count for nothing."""
        name, weighs, threads = self._name, self._weighs, self._threads
        if self._scheme.spec.successive:
            return encode_successively(
                values, self._scheme, lambda left, level: encode_free(left, level, weighs, None, name=name, threads=threads)
            )
        if self._scheme.parts:
            importance = np.where(held, np.float32(0), np.float32(1) if weighs is None else weighs[:, None])
            return encode_cascade(values, self._scheme, name=name, importance=importance, threads=threads)
        return encode_free(values, self._scheme, weighs, held, name=name, threads=threads)


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """One matrix encoded: codes in all places, which of them are pruned, what codes and 16 bits amount to, and the low rank."""

    coded: QuantizedTensor
    pruned: Bools
    total: Float32
    low: LowRankPart | None


class _Matrix:
    """One matrix at work."""

    def __init__(self, weights: Float32, scheme: Scheme, inputs: _Inputs) -> None:
        self._weights, self._scheme, self._inputs = weights, scheme, inputs
        self._low = np.zeros_like(weights)
        self._low_part: LowRankPart | None = None
        none = np.zeros(weights.shape, np.bool_)
        self.columns, self.outliers = np.empty(0, np.int32), none
        self.holes = Holes(none.copy(), none.copy())
        self._coded: QuantizedTensor

    def largest(self) -> Bools:
        """As many weights as stay in 16 bits, by w² and what errors there cost: scales are to be those of the others."""
        spec, (rows, cols) = self._scheme.spec, self._weights.shape
        return choose_outliers(self._inputs.costs() * np.square(self._weights), spec.outliers(rows, cols) + spec.columns(cols) * rows)

    def choose_exact(self, others: QuantizedTensor) -> None:
        """Choose what stays in 16 bits by what its error costs under the scales of `others`, the encoding without the largest."""
        spec, (rows, cols) = self._scheme.spec, self._weights.shape
        cost = self._inputs.costs() * np.square(self._weights - _rounded_by(self._weights, others))
        self.columns = choose_columns(cost, spec.columns(cols))
        cost[:, self.columns] = 0
        self.outliers = choose_outliers(cost, spec.outliers(rows, cols))
        self.holes.exact = self.outliers.copy()
        self.holes.exact[:, self.columns] = True

    def choose_pruned(self) -> None:
        """Choose what is 0, but where GPTQ does that as it goes."""
        spec, exact, squares = self._scheme.spec, self.holes.exact, self._inputs.squares
        if spec.truncate is not None:
            self.holes.pruned = truncated(self._weights, squares, float(spec.truncate)) & ~exact
        elif spec.pruned and self._inputs.hessian is not None:
            self.holes.choose = spec
        elif spec.pruned:
            score = np.abs(self._weights) * np.sqrt(squares)
            self.holes.pruned = least_scores(np.where(exact, np.float32(-1), score), spec)

    def target(self) -> Float32:
        """What codes and 16 bits are to amount to."""
        return self._weights - self._low

    def take(self, coded: QuantizedTensor) -> None:
        """Take codes for `target`; what holes amount to is known already where GPTQ saw them."""
        self._coded = coded
        if self._inputs.hessian is None or not self.holes.any:
            self._fill()

    def _fill(self) -> None:
        """Codes, 0 where pruned, and in 16 bits what comes nearest to the target."""
        target, exact = self.target(), self.holes.exact
        total = np.where(self.holes.pruned, np.float32(0), self._coded.dequantize())
        total[exact] += as_half(target[exact] - total[exact]).view(np.float16).astype(np.float32)
        self.holes.total = total

    def fit_low_rank(self) -> None:
        """Let a low rank take up what codes and 16 bits leave."""
        rank = self._scheme.spec.ranks(*self._weights.shape)
        self._low_part = fit_low_rank(self._weights - self.holes.total, rank, self._inputs.metric)
        self._low = self._low_part.dense()
        if self._inputs.hessian is None:
            self._fill()

    def loss(self) -> float:
        """Squared error of the output."""
        return self._inputs.metric.loss(self._weights - self.holes.total - self._low)

    def state(self) -> _State:
        """As it stands."""
        return _State(self._coded, self.holes.pruned.copy(), self.holes.total.copy(), self._low_part)


def _rounded_by(weights: Float32, tensor: QuantizedTensor) -> Float32:
    """`weights` as nearest codes of the scales and levels of `tensor` would have them."""
    if tensor.scheme.spec.residual:
        return rounded_by(weights, tensor)
    rows, cols = weights.shape
    scale = expand_groups(scale_values(tensor), tensor.scheme, (rows, cols))
    zero = np.zeros_like(scale) if tensor.zero_point is None else expand_groups(tensor.zero_point, tensor.scheme, (rows, cols))
    codes = nearest_codes(weights, scale, zero.astype(np.float32), tensor.levels)
    return (tensor.levels[codes] - zero) * scale


def _assembled(state: _State, work: _Matrix, scheme: Scheme) -> QuantizedTensor:
    parts: dict[str, Array] = dict(state.coded.parts())
    beside = state.total - np.where(state.pruned, np.float32(0), state.coded.dequantize())
    if scheme.spec.pruned:
        parts["weight_mask"] = pack_mask(~state.pruned)
        parts["weight"] = pack_stream(state.coded.codes(), ~state.pruned, scheme.bits)
    if scheme.spec.outlier is not None:
        parts |= outlier_parts(work.outliers, beside)
    if work.columns.size:
        parts |= column_parts(work.columns, beside)
    if state.low is not None:
        parts |= state.low.parts()
    return QuantizedTensor.from_parts(scheme, state.coded.shape, parts)
