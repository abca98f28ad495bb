"""Columns rounded one after another, each making up for the errors of those before it: the inner work of GPTQ.

With H = R Rᵀ (`kbit.encoders.hessian`) a row loses Σ_j (e_j R_jj + v_j)², v_j = Σ_{i<j} e_i R_ij, e = w − ŵ, so column j aims at
t_j = w_j + v_j / R_jj. A group's scale is decided when its first column is reached: that of the weights which would lose nothing more if
they stayed real numbers, w_g + v_g R_gg⁻¹, or of some multiples of it the one with which the group then loses least.

Groups go by falling mean diagonal of H, and so do the columns of a group: what matters most is rounded while most can still make up for
it, and each group has its scale in one piece (Gafni et al., "Dual precision quantization", 2025, call it group-aware reordering).

Weights that codes do not decide (`Holes`) take part all the same: one in 16 bits hits its target, and so makes up for all errors before it
at once; one that is pruned is an error as large as itself, which later columns make up for.

Work is done in blocks: v of a block comes from all errors before it by one matrix product, and inside by rank-1 updates.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.encoders.group_scales import GroupScales
from kbit.encoders.holes import Holes, round_column

__all__ = ["BLOCK", "Columns", "column_order", "compensate"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

#: columns between two matrix products
BLOCK = 128
#: columns of the largest group that tries several scales
_LONGEST_TRIAL = 256


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A matrix, its columns lying as rows in the order in which they are encoded.

    Attributes:
        values: float32 [cols, rows].
        order: the column that each was.
        group: the group of each.
        importance: of the columns as they were, float32 [cols], for the search of scales; None for none.
        holes: weights that codes do not decide, by columns as they were; None for none.
    """

    values: Float32
    order: Indices
    group: Indices
    importance: Float32 | None
    holes: Holes | None = None


def column_order(diagonal: Float32, group_size: int) -> Indices:
    """Columns by falling `diagonal`: those of a group together and the groups by their mean, or all alike where `group_size` is 0."""
    if not group_size:
        return np.argsort(-diagonal, kind="stable")
    starts = np.arange(0, len(diagonal), group_size)
    means = np.add.reduceat(diagonal.astype(np.float64), starts) / np.diff(starts, append=len(diagonal))
    inside = (
        np.argsort(-diagonal[start : start + group_size], kind="stable") + start for start in starts[np.argsort(-means, kind="stable")]
    )
    return np.concatenate(list(inside))


def compensate(
    columns: Columns,
    factor: Float32,
    scales: GroupScales,
    levels: Float32,
    *,
    grouped: bool,
    dynamic: bool,
    multipliers: tuple[float, ...],
    block: int = BLOCK,
) -> Bytes:
    """Codes [rows, cols], columns where they were before they were put in order; `scales` then holds what they were chosen for, and holes
    what the matrix amounts to.

    Args:
        columns: what to encode.
        factor: R of the Hessian in the same order, float32 [cols, cols].
        scales: of the original weights; with `dynamic` each group's is decided anew.
        levels: ascending float32.
        grouped: the columns of a group lie together.
        dynamic: scales are decided group by group; goes with `grouped`.
        multipliers: further scales to try, in parts of the one that is decided.
        block: columns between two matrix products.
    """
    work, back = _Work(columns, factor, scales, levels, multipliers, dynamic), np.argsort(columns.order)
    codes = work.run(_spans(columns.group, grouped, block), grouped, block)
    if columns.holes is not None:
        columns.holes.total = np.ascontiguousarray((columns.values - work.error)[back].T)
    return np.ascontiguousarray(codes[back].T)


def _spans(group: Indices, grouped: bool, block: int) -> list[tuple[int, int]]:
    starts = np.flatnonzero(np.diff(group, prepend=-1)) if grouped else np.arange(0, len(group), block)
    return list(pairwise([*starts.tolist(), len(group)]))


class _Work:
    def __init__(
        self, columns: Columns, factor: Float32, scales: GroupScales, levels: Float32, multipliers: tuple[float, ...], dynamic: bool
    ) -> None:
        self.columns, self.factor, self.scales, self.levels, self.multipliers = columns, factor, scales, levels, multipliers
        self.dynamic, self.holes = dynamic, columns.holes
        self.values = columns.values
        self.error = np.zeros_like(columns.values)
        self.codes = np.empty(columns.values.shape, np.uint8)

    def run(self, spans: list[tuple[int, int]], grouped: bool, block: int) -> Bytes:
        for begin, end in spans:
            carried = self.factor[:begin, begin:end].T @ self.error[:begin]
            if grouped:
                self._decide(begin, end, carried)
            for start in range(begin, end, block):
                stop = min(start + block, end)
                self._round(start, stop, carried[start - begin : stop - begin])
                carried[stop - begin :] += self.factor[start:stop, stop:end].T @ self.error[start:stop]
        return self.codes

    def _decide(self, begin: int, end: int, carried: Float32) -> None:
        corner, group = self.factor[begin:end, begin:end], int(self.columns.group[begin])
        place = np.argsort(self.columns.order[begin:end])  # as they were, so that sums are those of the nearest encoder
        columns = self.columns.order[begin:end][place]
        current = (self.values[begin:end] + np.linalg.solve(corner.T.astype(np.float64), carried).astype(np.float32))[place]
        importance = None if self.columns.importance is None else self.columns.importance[columns]
        if self.holes is not None:
            score = np.square(current * np.diagonal(corner)[place, None])
            current, importance = self.holes.decide(columns, begin, current, score, importance)
        if not self.dynamic:
            return
        self.scales.decide(group, np.ascontiguousarray(current.T), importance)
        if self.multipliers and end - begin <= _LONGEST_TRIAL:
            self._try_multiples(begin, end, carried, group)

    def _try_multiples(self, begin: int, end: int, carried: Float32, group: int) -> None:
        """Take, in each row, the multiple of the scale by which the group loses least."""
        now = self.scales.value[:, [group]]
        candidates = [self.scales.rounded(slice(None), now * np.float32(multiplier)) for multiplier in (1.0, *self.multipliers)]
        values = np.concatenate([value[:, 0] for _, value in candidates])
        zeros = np.tile(self.scales.zero[:, group], len(candidates))
        loss = self._loss(begin, end, np.tile(carried, len(candidates)), values, zeros).reshape(len(candidates), -1)
        best = loss.argmin(0)
        stored, value = (np.stack([one[part][:, 0] for one in candidates])[best, np.arange(len(now))] for part in (0, 1))
        self.scales.put(group, stored, value)

    def _loss(self, begin: int, end: int, carried: Float32, value: Float32, zero: Float32) -> Float64:
        """What columns begin…end lose with these scales, for each of them; `carried` is used up."""
        loss = np.zeros(len(value))
        columns = np.tile(self.values[begin:end], len(value) // self.values.shape[1])
        for row, j in enumerate(range(begin, end)):
            own = self.factor[j, j]
            target = columns[row] + carried[row] / own
            error = columns[row] - round_column(self.holes, self.columns.order[j], target, value, zero, self.levels)[1]
            loss += np.square(error * own + carried[row], dtype=np.float64)
            carried[row + 1 :] += self.factor[j, j + 1 : end, None] * error
        return loss

    def _round(self, start: int, stop: int, carried: Float32) -> None:
        """Round columns start…stop; `carried` is their v so far, and is used up."""
        for j in range(start, stop):
            row, group = j - start, self.columns.group[j]
            value, zero = self.scales.value[:, group], self.scales.zero[:, group]
            target = self.values[j] + carried[row] / self.factor[j, j]
            self.codes[j], amount = round_column(self.holes, self.columns.order[j], target, value, zero, self.levels)
            self.error[j] = self.values[j] - amount
            carried[row + 1 :] += self.factor[j, j + 1 : stop, None] * self.error[j]
