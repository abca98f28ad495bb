"""Trellis codes whose errors are made up for, as in `kbit.encoders.gptq`.

With H = R Rᵀ a row loses Σ_j (e_j R_jj + v_j)², v_j = Σ_{i<j} e_i R_ij. What a column aims at depends on the path behind it, so each state
carries the errors of the one path that it keeps, within a block of columns; those of blocks before it come by one matrix product. A block
looks a few columns beyond its end, whose steps are chosen anew by the next. At last all scales are fitted once more to the paths that were
found: for a row, least squares under H over its groups.

Targets that make up for errors spread wider than the weights, so larger scales may lose less, at one and two bits by a tenth and more. How
much larger depends on the Hessian: a few rows are encoded by several, and the matrix by what lost least.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.scheme import Scheme
from kbit.encoders.hessian import damped, damped_factor
from kbit.encoders.scale_equations import ROWS_AT_ONCE, scale_equations
from kbit.encoders.trellis import TrellisRecipe, Trials, free_trials
from kbit.native import trellis as native
from kbit.native.encoding import EncodedMatrix
from kbit.tensor.blocks import BlockLayout
from kbit.tensor.trellis import pack_steps, unpack_indices

__all__ = ["BLOCK", "LOOK_AHEAD", "compensate_trellis"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

#: columns of a block, and columns beyond it that its paths look at
BLOCK = 256
LOOK_AHEAD = 16
#: rows, at even distances, by which scales to try are chosen
_SAMPLED_ROWS = 32
#: what is added to the diagonal of a fit of scales, in parts of the mean
_RIDGE = 1e-5


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
    recipe = TrellisRecipe(native.TrellisCode(scheme.bits, levels), scheme.scale_dtype, super_scale, threads)
    factor, hessian = damped_factor(hessian, name, damping=damping).astype(np.float32), damped(hessian, damping=damping)
    work = _Work(recipe, scheme, factor, hessian, importance)
    ways = _ways(scheme.bits)
    if len(ways) > 1 and factor.any(where=~np.eye(len(factor), dtype=bool)):
        sample = np.ascontiguousarray(weights[:: -(-len(weights) // _SAMPLED_ROWS)])
        best = min(ways, key=lambda trials: work.loss(sample, work.encode(sample, trials)))
    else:
        best = ways[0]
    found = work.encode(weights, best)
    return EncodedMatrix(found.lines, found.scale, None, None)


def _ways(bits: int) -> tuple[Trials, ...]:
    """Scales that are tried for all groups of a matrix; of several ways the one by which a few rows lose least."""
    match bits:
        case 1:
            return free_trials(bits), Trials((1.1,)), Trials((1.25,)), Trials((1.45,))
        case 2:
            return free_trials(bits), Trials((1.08,)), Trials((1.18,)), Trials((1.32,))
        case 3:
            return (Trials((1.0, 1.12, 1.25, 1.4)),)
        case _:
            return (Trials((1.0, 1.15, 1.3, 1.45)),)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Rows as they are stored, and what that means: levels [rows, cols] and scales [rows, groups]."""

    lines: Array
    scale: Array
    chosen: Float32
    value: Float32


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What all rows of a matrix share."""

    recipe: TrellisRecipe
    scheme: Scheme
    factor: Float32
    hessian: Float32
    importance: Float32 | None

    def encode(self, weights: Float32, trials: Trials) -> _Found:
        """Rows [rows, cols], some or all of the matrix."""
        layout, code = BlockLayout.of(self.scheme, *weights.shape), self.recipe.code
        steps, value = _Compensated(weights, self.factor, self.recipe, layout, self.importance, trials).run()
        lines = pack_steps(steps, code.bits)
        chosen = code.levels[unpack_indices(lines, layout.rows, layout.cols, code.bits)]
        scale, value = self.recipe.stored(_refitted(weights, chosen, value, self.hessian, layout.group_size))
        return _Found(lines, scale, chosen, value)

    def loss(self, weights: Float32, found: _Found) -> float:
        """What rows lose under the Hessian."""
        group = np.arange(weights.shape[1]) // BlockLayout.of(self.scheme, *weights.shape).group_size
        error = weights - found.value[:, group] * found.chosen
        return float(np.sum((error @ self.hessian) * error, dtype=np.float64))


class _Compensated:
    """One matrix at work, block by block."""

    def __init__(
        self, weights: Float32, factor: Float32, recipe: TrellisRecipe, layout: BlockLayout, importance: Float32 | None, trials: Trials
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
