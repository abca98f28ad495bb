"""Trellis codes: the path through the states of a shift register whose levels lie nearest to a row, by the Viterbi algorithm.

    scale   for each group the one of a fixed set, refined by least squares, whose best path has the least (importance-weighted) error
    path    the best of all paths of the row for the scales as stored (Viterbi 1967; Marcellin and Fischer 1990)

With ``gptq`` errors are made up for as in `kbit.encoders.gptq`, H = R Rᵀ: a row loses Σ_j (e_j R_jj + v_j)², v_j = Σ_{i<j} e_i R_ij. What a
column aims at then depends on the path behind it, so each state carries the errors of the one path that it keeps, within a block of
columns; those of blocks before it come by one matrix product. A block looks a few columns beyond its end, whose steps are chosen anew
by the next. At last all scales are fitted once more to the paths that were found: for a row, least squares under H over its groups.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.scheme import Scheme
from kbit.encoders.hessian import damped, damped_factor
from kbit.encoders.scale_equations import ROWS_AT_ONCE, scale_equations
from kbit.native import trellis as native
from kbit.native.encoding import EncodedMatrix
from kbit.tensor.blocks import BlockLayout, tiles_of_rows
from kbit.tensor.scales import SCALE_DTYPES, round_scale
from kbit.tensor.trellis import pack_steps, unpack_indices

__all__ = ["BLOCK", "LOOK_AHEAD", "compensate_trellis", "encode_trellis"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

#: columns of a block, and columns beyond it that its paths look at
BLOCK = 256
LOOK_AHEAD = 16
#: what is added to the diagonal of a fit of scales, in parts of the mean
_RIDGE = 1e-5


@dataclass(frozen=True, slots=True)
class _Trials:
    """Scales to try for a group, in parts of the one that gives the levels the spread of its weights; and refits of the best."""

    parts: tuple[float, ...]
    refits: int = 0


#: where what can be made up for is less than this part of the inputs' energy, scales are those of the weights as they are
_LEAST_SHARED = 0.1


def _free_trials(bits: int) -> _Trials:
    """Scales to try for weights as they are: levels of many bits lie dense, and lose most by the weights beyond them."""
    match bits:
        case 1 | 2:
            return _Trials((1.0, 0.86, 0.93, 1.08, 1.17), 2)
        case 3:
            return _Trials((1.0, 0.9, 1.1, 1.2, 1.3), 2)
        case _:
            return _Trials((1.0, 1.15, 1.3, 1.45), 2)


def _compensated_trials(bits: int, factor: Float32) -> _Trials:
    """Scales to try where errors are made up for: targets spread wider than the weights, the more so the coarser the code and the more the
    inputs have in common. (Losses under the Hessians of quill-4.5m, 1 to 4 bits; `benchmarks/trellis_scales.py`.)

    Args:
        bits: of the trellis.
        factor: R of the Hessian of mean diagonal 1.
    """
    alone = float(np.square(np.diagonal(factor), dtype=np.float64).mean())  # part of the energy that other inputs do not tell
    if alone > 1 - _LEAST_SHARED:
        return _free_trials(bits)
    match bits:
        case 1:
            return _Trials((1.65 - 0.9 * alone,))
        case 2:
            return _Trials((1.42 - 0.5 * alone,))
        case 3:
            return _Trials((1.1, 1.25, 1.4))
        case _:
            return _Trials((1.12, 1.25, 1.38, 1.5))


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What encoding one matrix needs to know."""

    code: native.TrellisCode
    scale_dtype: str
    super_scale: float
    threads: int

    def scales(self, weights: Float32, group_size: int, importance: Float32 | None, trials: "_Trials") -> Float32:
        """Searched scales as they are stored, [rows, groups]."""
        _, value = native.scales(
            self.code,
            weights,
            group_size,
            trials.parts,
            trials.refits,
            importance=importance,
            scale_dtype=self.scale_dtype,
            super_scale=self.super_scale,
            threads=self.threads,
        )
        return value

    def stored(self, value: Float32) -> tuple[Array, Float32]:
        """(scales as stored [tiles, groups, 16], what they mean [rows, groups]) nearest to `value`."""
        unit = None if self.scale_dtype == "fp16" else np.array(self.super_scale, np.float32)
        stored, rounded = round_scale(value, unit, self.scale_dtype)
        return tiles_of_rows(stored.astype(SCALE_DTYPES[self.scale_dtype])), rounded


def encode_trellis(
    weights: Float32, scheme: Scheme, levels: Float32, *, importance: Float32 | None = None, super_scale: float = 0.0, threads: int = 0
) -> EncodedMatrix:
    """Rows [rows, cols] by their best paths.

    Args:
        weights: finite float32, contiguous.
        scheme: a trellis, its group no longer than a row.
        levels: its sixty-four levels.
        importance: weights of the squared error, [cols] or [rows, cols].
        super_scale: what e4m3 scales are multiples of.
        threads: 0 for the default; the result does not depend on it.
    """
    recipe = _Recipe(native.TrellisCode(scheme.bits, levels), scheme.scale_dtype, super_scale, threads)
    group_size = BlockLayout.of(scheme, *weights.shape).group_size
    value = recipe.scales(weights, group_size, importance, _free_trials(scheme.bits))
    steps = native.path(recipe.code, weights, group_size, value, importance=importance, threads=threads)
    scale, _ = recipe.stored(value)
    return EncodedMatrix(pack_steps(steps, scheme.bits), scale, None, None)


def compensate_trellis(
    weights: Float32,
    scheme: Scheme,
    levels: Float32,
    hessian: Array,
    *,
    name: str,
    damping: float,
    importance: Float32 | None = None,
    super_scale: float = 0.0,
    threads: int = 0,
) -> EncodedMatrix:
    """Rows [rows, cols] by paths that make up for each other's errors under the Hessian of their inputs.

    Args:
        weights: finite float32, contiguous.
        scheme: a trellis, its group no longer than a row.
        levels: its sixty-four levels.
        hessian: XᵀX [cols, cols].
        name: what errors call the matrix.
        damping: added to the Hessian's diagonal, in parts of its mean.
        importance: weights of the squared error in the search of scales, [cols].
        super_scale: what e4m3 scales are multiples of.
        threads: 0 for the default; the result does not depend on it.

    Raises:
        NumericsError: a Hessian that is none.
    """
    recipe = _Recipe(native.TrellisCode(scheme.bits, levels), scheme.scale_dtype, super_scale, threads)
    factor, layout = damped_factor(hessian, name, damping=damping).astype(np.float32), BlockLayout.of(scheme, *weights.shape)
    steps, value = _Compensated(weights, factor, recipe, layout, importance, _compensated_trials(scheme.bits, factor)).run()
    lines = pack_steps(steps, scheme.bits)
    chosen = levels[unpack_indices(lines, layout.rows, layout.cols, scheme.bits)]
    scale, _ = recipe.stored(_refitted(weights, chosen, value, damped(hessian, damping=damping), layout.group_size))
    return EncodedMatrix(lines, scale, None, None)


class _Compensated:
    """One matrix at work, block by block."""

    def __init__(
        self, weights: Float32, factor: Float32, recipe: _Recipe, layout: BlockLayout, importance: Float32 | None, trials: "_Trials"
    ) -> None:
        self.trials = trials
        self.weights, self.factor, self.recipe, self.layout, self.importance = weights, factor, recipe, layout, importance
        self.value = _spread(weights, layout) / np.sqrt(np.mean(recipe.code.levels**2))  # where a block looks ahead of what is decided
        self.error = np.zeros_like(weights)
        self.steps = np.empty(weights.shape, np.uint8)
        self.state = np.zeros(layout.rows, np.uint16)

    def run(self) -> tuple[Bytes, Float32]:
        """(steps [rows, cols], scales [rows, groups])."""
        size, cols = self.layout.group_size, self.layout.cols
        span = size if size >= BLOCK else BLOCK // size * size
        for begin in range(0, cols, span):
            end = min(begin + span, cols)
            self._decide(begin, end)
            for start in range(begin, end, BLOCK):
                self._walk(start, min(start + BLOCK, end))
        return self.steps, self.value

    def _decide(self, begin: int, end: int) -> None:
        """Scales of the groups in columns begin … end, for the weights that would lose nothing more if they stayed real numbers."""
        corner = self.factor[begin:end, begin:end].astype(np.float64)
        aim = np.linalg.solve(corner.T, self._carried(begin, end).T).T
        current = np.ascontiguousarray(self.weights[:, begin:end] + aim.astype(np.float32))
        size = self.layout.group_size
        importance = None if self.importance is None else np.ascontiguousarray(self.importance[begin:end])
        self.value[:, begin // size : -(-end // size)] = self.recipe.scales(current, min(size, end - begin), importance, self.trials)

    def _walk(self, start: int, stop: int) -> None:
        end = min(stop + LOOK_AHEAD, self.layout.cols)
        columns = slice(start, end)
        scale = self.value[:, np.arange(start, end) // self.layout.group_size]
        self.steps[:, start:stop], self.error[:, start:stop] = native.compensate(
            self.recipe.code,
            np.ascontiguousarray(self.weights[:, columns]),
            np.ascontiguousarray(self._carried(start, end)),
            np.ascontiguousarray(self.factor[columns, columns]),
            np.ascontiguousarray(scale),
            self.state,
            stop - start,
            threads=self.recipe.threads,
        )

    def _carried(self, begin: int, end: int) -> Float32:
        carried: Float32 = self.error[:, :begin] @ self.factor[:begin, begin:end]
        return carried


def _spread(weights: Float32, layout: BlockLayout) -> Float32:
    """Root of the mean square of each group, [rows, groups]."""
    begins = np.arange(0, layout.cols, layout.group_size)
    squares = np.add.reduceat(weights * weights, begins, axis=1)
    return np.sqrt(squares / np.diff(begins, append=layout.cols)).astype(np.float32)


def _refitted(weights: Float32, chosen: Float32, value: Float32, hessian: Float32, group_size: int) -> Float32:
    """Scales [rows, groups] with the least loss for the levels `chosen` [rows, cols]."""
    found = np.empty_like(value)
    group = np.arange(weights.shape[1]) // group_size
    for begin in range(0, len(weights), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        missed = weights[rows] - value[rows][:, group] * chosen[rows]
        linear, square = scale_equations(chosen[rows], missed, hessian, group_size)
        ridge = np.maximum(np.einsum("rgg->r", square), np.finfo(np.float32).tiny) * (_RIDGE / value.shape[1])
        square += ridge[:, None, None] * np.eye(value.shape[1])
        found[rows] = value[rows] + np.linalg.solve(square, linear[:, :, None])[:, :, 0]
    return np.where((value > 0) & (found > 0), found, value)
