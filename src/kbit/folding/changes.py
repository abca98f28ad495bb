"""What a fold makes of one tensor of the model.

    matrix [rows, cols]   R · W · diag(gain) · Tᵀ      gain: of the norm before it, T: rotates its inputs, R: rotates its outputs
    bias [rows]           R · b
    table [entries, cols] E · Tᵀ                       its rows are what comes in
    norm                  its gain becomes 1

Everything is worked out in float64, in pieces, and rounded once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kbit.core.rotation import rotation_block
from kbit.folding.turn import Floats, turn

__all__ = ["Change", "Gain", "Heads", "fold_importance"]

#: numbers that are worked on at once
_PIECE = 1 << 22


@dataclass(frozen=True, slots=True)
class Gain:
    """The vector that a norm multiplies by: its weight, or 1 + weight.

    Attributes:
        name: of the norm's weight.
        plus_one: which of the two.
    """

    name: str
    plus_one: bool = False

    def of(self, weight: Floats) -> NDArray[np.float64]:
        """The factors, float64, from the stored weight."""
        return np.asarray(weight, np.float64) + float(self.plus_one)


@dataclass(frozen=True, slots=True)
class Heads:
    """Outputs that are rotated: `size` of them from each of the rows `begins` on."""

    size: int
    begins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """See the module's docstring; a stack of matrices is changed matrix by matrix.

    Attributes:
        cols: the stretch of inputs that is rotated together, repeated over all inputs; 0 for none.
        gain: what the inputs are multiplied by first, or None.
        rows: outputs that are rotated; those of several folds are different ones.
        fill: the value that all of it becomes, and nothing else; None for a change.
        transposed: stored [cols, rows].
    """

    cols: int = 0
    gain: Gain | None = None
    rows: tuple[Heads, ...] = ()
    fill: float | None = None
    transposed: bool = False

    def with_other(self, other: "Change") -> "Change":
        """Both changes of one tensor; at most one of them is to its inputs."""
        assert not (self.cols and other.cols), "the inputs of a tensor come from one place"
        first, second = (self, other) if self.cols else (other, self)
        return replace(first, rows=tuple(dict.fromkeys((*first.rows, *second.rows))), transposed=first.transposed or second.transposed)

    def apply(self, values: Floats, gain: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """The tensor after it, as a new float32 array; `gain` are the factors of `self.gain`."""
        if self.fill is not None:
            return np.full(values.shape, self.fill, np.float32)
        if values.ndim == 1:
            return self._matrix(values[:, None], None)[:, 0]
        stack = values.reshape(-1, *values.shape[-2:])
        out = np.empty(stack.shape, np.float32)
        for index, matrix in enumerate(stack):
            if self.transposed:
                out[index] = self._matrix(matrix.T, gain).T
            else:
                out[index] = self._matrix(matrix, gain)
        return out.reshape(values.shape)

    def _matrix(self, matrix: Floats, gain: NDArray[np.float64] | None) -> NDArray[np.float32]:
        out = np.empty(matrix.shape, np.float64 if self.rows and self.cols else np.float32)
        for begin, end in _pieces(*matrix.shape):
            rows = np.asarray(matrix[begin:end], np.float64)
            rows = rows if gain is None else rows * gain
            out[begin:end] = turn(rows, self.cols) if self.cols else rows
        for heads in self.rows:
            for first in heads.begins:
                before = (out if self.cols else matrix)[first : first + heads.size]
                for begin, end in _pieces(matrix.shape[1], heads.size):
                    out[first : first + heads.size, begin:end] = turn(before[:, begin:end].T, heads.size).T
        return out.astype(np.float32, copy=False)


def fold_importance(change: Change, importance: NDArray[np.float32], gain: NDArray[np.float64] | None) -> NDArray[np.float32]:
    """Mean squares [..., cols] of the inputs that a changed matrix gets, from those of the inputs it got.

    As for inputs that are rotated as they come, all of a block get its mean: entries of a rotation are as large as each other.
    """
    means = np.asarray(importance, np.float64)
    if gain is not None:  # an input that its norm makes 0 says nothing of what is before the norm
        means = np.divide(means, np.square(gain), out=np.zeros_like(means), where=np.broadcast_to(gain != 0, means.shape))
    block = rotation_block(change.cols)
    blocks = means.reshape(*means.shape[:-1], -1, block).mean(-1, keepdims=True)
    return np.repeat(blocks, block, axis=-1).reshape(means.shape).astype(np.float32)


def _pieces(count: int, width: int) -> Iterable[tuple[int, int]]:
    step = max(1, _PIECE // width)
    return ((begin, min(begin + step, count)) for begin in range(0, count, step))
