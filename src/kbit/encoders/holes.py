"""Weights of one matrix that its codes do not decide: those kept in 16 bits, which may have any value, and those pruned, which are 0."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.parts import Parts
from kbit.encoders.joint import nearest_joint
from kbit.encoders.outliers import as_half
from kbit.encoders.prune import least_scores
from kbit.encoders.reference import nearest_codes

__all__ = ["Holes", "round_column"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


@dataclass(slots=True, eq=False)
class Holes:
    """Holes of a matrix [rows, cols].

    Attributes:
        exact: weights in 16 bits.
        pruned: weights that are 0; with `choose` filled in as columns are reached.
        choose: prune by `least_scores` for the weights as they are by then; None where `pruned` is decided.
        total: what the matrix amounts to, float32 [rows, cols], once it is encoded.
    """

    exact: Bools
    pruned: Bools
    choose: Parts | None = None
    total: Float32 = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @property
    def held(self) -> Bools:
        """Weights that codes do not decide."""
        return self.exact | self.pruned

    @property
    def any(self) -> bool:
        """Whether there are holes, or will be."""
        return self.choose is not None or bool(self.held.any())

    def decide(self, columns: Indices, done: int, current: Float32, score: Float32, importance: Float32 | None) -> tuple[Float32, Float32]:
        """Choose what to prune of `columns`, which ascend; answers with what is left for their scale.

        Args:
            columns: a run of neighbours.
            done: columns that were encoded before.
            current: the weights as compensated by then, [width, rows]; so are the answer's.
            score: what pruning each would cost, [width, rows].
            importance: of the columns, [width], or None; the answer's is [rows, width].
        """
        if self.choose is not None:
            open_to_choice = np.where(self.exact[:, columns], np.float32(-1), score.T)
            self.pruned[:, columns] = least_scores(open_to_choice, self.choose, begin=done, cols=self.exact.shape[1])
        held = self.exact[:, columns] | self.pruned[:, columns]
        weighed = np.where(held, np.float32(0), np.float32(1) if importance is None else importance)
        return np.where(held.T, np.float32(0), current), np.ascontiguousarray(weighed, np.float32)

    def around(self, decoded: Float32) -> Float32:
        """What the matrix amounts to where its codes say `decoded` [rows, cols] and what is in 16 bits stays as it is."""
        return np.where(self.exact, self.total, np.where(self.pruned, np.float32(0), decoded))


def round_column(
    holes: Holes | None, column: int, target: Float32, value: Float32, zero: Float32, levels: Float32
) -> tuple[npt.NDArray[np.uint8], Float32]:
    """Codes of a column that aims at `target`, and what it then amounts to.

    That is what the codes say, but 0 where the column is pruned, and the target where it is in 16 bits, as near as 16 bits beside the codes
    come. All arrays are [rows], or several versions of that one after another. With the joint levels of a cascade,
    float32 [n, l], codes are joint ones and `value` is [rows, l] (`kbit.encoders.joint`).
    """
    if holes is None:
        return _nearest(target, value, zero, levels)
    exact, pruned = holes.exact[:, column], holes.pruned[:, column]
    aims = target.reshape(-1, len(exact))
    coded = np.where(exact | pruned, np.float32(0), aims).reshape(target.shape)
    codes, amount = _nearest(coded, value, zero, levels)
    amount = amount.reshape(aims.shape)
    amount[:, pruned] = 0
    amount[:, exact] += as_half(aims[:, exact] - amount[:, exact]).view(np.float16).astype(np.float32)
    return codes, amount.reshape(target.shape)


def _nearest(target: Float32, value: Float32, zero: Float32, levels: Float32) -> tuple[npt.NDArray[np.uint8], Float32]:
    if levels.ndim == 2:
        return nearest_joint(target, value, levels)
    codes = nearest_codes(target, value, zero, levels)
    return codes, (levels[codes] - zero) * value
