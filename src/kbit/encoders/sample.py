"""The sample that fitted grids (quantile, k-means) look at: some groups of the tensor, each divided by its extreme element.

Groups are numbered matrix by matrix, row by row, left to right, and every `stride`-th is taken, with a stride that shares no
factor with the groups of a row, so that all columns are met. About 2^20 weights are taken of tensors larger than that; how the
tensor is cut into pieces on its way here does not matter. Groups of zeros teach nothing and are left out.
"""

from math import gcd

import numpy as np
import numpy.typing as npt

from kbit.encoders.inputs import Array, Importance, as_float32
from kbit.tensor.blocks import BlockLayout

__all__ = ["SAMPLE_SIZE", "LevelSample"]

SAMPLE_SIZE = 1 << 20
_GROUP_SAMPLE = 1 << 16  # weights of one (very long) group

Float32 = npt.NDArray[np.float32]


class LevelSample:
    """Collects the sample piece by piece; `add` each row once."""

    def __init__(self, matrices: int, layout: BlockLayout) -> None:
        self._layout = layout
        self._stride = _stride(matrices * layout.rows * layout.cols, layout.groups)
        self._step = -(-layout.group_size // _GROUP_SAMPLE)
        self._weights: list[Float32] = []
        self._importance: list[Float32] = []

    def add(self, matrix: int, row_begin: int, weights: Array, importance: Importance | None) -> None:
        """Take what is sampled of rows [row_begin, row_begin + n) of a matrix; importance is [cols], [n, cols] or None."""
        layout = self._layout
        first = (matrix * layout.rows + row_begin) * layout.groups
        chosen = np.arange(-(-first // self._stride) * self._stride, first + len(weights) * layout.groups, self._stride) - first
        if not chosen.size:
            return
        row = (chosen // layout.groups)[:, None]
        column = (chosen % layout.groups)[:, None] * layout.group_size + np.arange(layout.group_size)
        inside = column < layout.cols
        column = np.minimum(column, layout.cols - 1)
        values = np.where(inside, as_float32(weights[row, column]), np.float32(0))
        high, low = values.max(axis=1, keepdims=True), values.min(axis=1, keepdims=True)
        extreme = np.where(high >= -low, high, low)
        taken = (inside & (extreme != 0))[:, :: self._step]
        with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
            self._weights.append((values / extreme)[:, :: self._step][taken])
        if importance is not None:
            spread = importance[column] if importance.ndim == 1 else importance[row, column]
            self._importance.append(spread[:, :: self._step][taken])

    def collected(self) -> tuple[Float32, Float32 | None]:
        """(weights in −1…1, their importance if it was given); one zero stands for a tensor of zeros."""
        weights = np.concatenate(self._weights)
        if not weights.size:
            return np.zeros(1, np.float32), None
        return weights, np.concatenate(self._importance) if self._importance else None


def _stride(weights: int, groups: int) -> int:
    stride = -(-weights // SAMPLE_SIZE)
    while gcd(stride, groups) != 1:
        stride += 1
    return stride
