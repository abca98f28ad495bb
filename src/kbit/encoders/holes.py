"""Weights of one matrix that its codes do not decide: those kept in 16 bits, which may have any value, and those pruned, which are 0."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.parts import Parts
from kbit.encoders.outliers import as_half
from kbit.encoders.prune import least_scores

__all__ = ["Holes"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]


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
    _order: npt.NDArray[np.intp] | None = None

    def ordered(self, order: npt.NDArray[np.intp]) -> "Holes":
        """The same, to be asked by places in the order in which columns are encoded; pruned weights are noted in this one too."""
        self._order = order
        return self

    def finish(self, total: Float32) -> None:
        """Take what the matrix amounts to."""
        self.total = total

    def _at(self, begin: int, end: int) -> npt.NDArray[np.intp]:
        assert self._order is not None
        return self._order[begin:end]

    def decide(self, begin: int, end: int, current: Float32, score: Float32, importance: Float32 | None) -> tuple[Float32, Float32]:
        """Choose what to prune of columns begin…end; answers with what is left for their scale.

        Weights are `current` [width, rows], as compensated by then, and so are the answer's; the answer's importance is [rows, width].
        """
        places = self._at(begin, end)
        if self.choose is not None:
            open_to_choice = np.where(self.exact[:, places], np.float32(-1), score.T)
            self.pruned[:, places] = least_scores(open_to_choice, self.choose, begin=begin, cols=self.exact.shape[1])
        held = self.exact[:, places] | self.pruned[:, places]
        weighed = np.where(held, np.float32(0), np.float32(1) if importance is None else importance)
        return np.where(held.T, np.float32(0), current), np.ascontiguousarray(weighed, np.float32)

    def coded(self, index: int, target: Float32) -> Float32:
        """What codes of a column [rows] aim at: 0 in holes."""
        place = self._at(index, index + 1)[0]
        return np.where(self.exact[:, place] | self.pruned[:, place], np.float32(0), target)

    def filled(self, index: int, decoded: Float32, target: Float32) -> Float32:
        """What a column amounts to: 0 where it is pruned, and `target`, as near as 16 bits beside `decoded` come, where it is exact."""
        place = self._at(index, index + 1)[0]
        values = np.where(self.pruned[:, place], np.float32(0), decoded)
        exact = self.exact[:, place]
        values[exact] += as_half(target[exact] - values[exact]).view(np.float16).astype(np.float32)
        return values
