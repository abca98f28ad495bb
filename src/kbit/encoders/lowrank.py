"""The part of a weight that rank R says best, in int8: E ≈ U · diag(scale) · V with the least ‖(E − U·diag(scale)·V)·R‖, H = R·Rᵀ.

R is the Cholesky factor of the inputs' second moments where they are known whole, √h_j where only their diagonal is, 1 where nothing is
(then this is the truncated SVD). The optimum is V = B·R⁻¹, U = E·R·Bᵀ with B the leading right singular vectors of E·R (Eckart, Young 1936;
weighted as in Hsu et al., "Language model compression with weighted low-rank factorization", 2022). V is rounded first, and U is then the
least squares fit to what V has become.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.tensor.blocks import TILE_ROWS

__all__ = ["InputMetric", "LowRankPart", "fit_low_rank"]

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class InputMetric:
    """How errors of a row weigh: a triangular factor [cols, cols], a diagonal [cols], or nothing (all alike)."""

    factor: Float64 | None = None
    diagonal: Float64 | None = None

    def apply(self, errors: Array) -> Float64:
        """Errors · R."""
        if self.factor is not None:
            return np.asarray(errors.astype(np.float64) @ self.factor)
        return errors.astype(np.float64) if self.diagonal is None else errors * self.diagonal

    def undo(self, rows: Float64) -> Float64:
        """Rows · R⁻¹; inputs that are always 0 get 0."""
        if self.factor is not None:
            return np.asarray(np.linalg.solve(self.factor.T, rows.T).T)
        if self.diagonal is None:
            return rows
        return np.divide(rows, self.diagonal, out=np.zeros_like(rows), where=self.diagonal > 0)

    def loss(self, errors: Array) -> float:
        """‖errors · R‖²."""
        return float(np.square(self.apply(errors)).sum())


@dataclass(frozen=True, slots=True, eq=False)
class LowRankPart:
    """Factors as stored: left int8 [rows, rank], right int8 [rank, cols], scale float32 [rank]."""

    left: npt.NDArray[np.int8]
    right: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]

    def dense(self) -> npt.NDArray[np.float32]:
        """The matrix [rows, cols], summed as readers sum it."""
        out = np.zeros((len(self.left), self.right.shape[1]), np.float32)
        left = self.left.astype(np.float32) * self.scale
        for column, line in zip(left.T, self.right.astype(np.float32), strict=True):
            out += column[:, None] * line
        return out

    def parts(self) -> dict[str, Array]:
        """Arrays as stored."""
        rows, rank = self.left.shape
        tiles = -(-rows // TILE_ROWS)
        padded = np.zeros((tiles * TILE_ROWS, rank), np.int8)
        padded[:rows] = self.left
        left = np.ascontiguousarray(padded.reshape(tiles, TILE_ROWS, rank).transpose(0, 2, 1))
        return {"weight_lowrank_left": left, "weight_lowrank_right": self.right, "weight_lowrank_scale": self.scale}


def fit_low_rank(errors: Array, rank: int, metric: InputMetric) -> LowRankPart:
    """The part of rank `rank` for `errors` [rows, cols]."""
    weighted = metric.apply(errors)
    right = metric.undo(_leading_right(weighted, rank))
    right_int, right_scale = _as_int8(right, axis=1)
    lines = metric.apply(right_int * right_scale[:, None])
    left = np.asarray(np.linalg.lstsq(lines.T, weighted.T, rcond=None)[0].T, np.float64)
    left_int, left_scale = _as_int8(left, axis=0)
    scale = np.minimum(left_scale * right_scale, np.finfo(np.float32).max).astype(np.float32)
    return LowRankPart(left_int.astype(np.int8), right_int.astype(np.int8), scale)


def _leading_right(weighted: Float64, rank: int) -> Float64:
    """The leading right singular vectors [rank, cols], by the smaller of the two Gram matrices."""
    rows, cols = weighted.shape
    if cols <= rows:
        _, vectors = np.linalg.eigh(weighted.T @ weighted)
        return np.ascontiguousarray(vectors[:, ::-1][:, :rank].T)
    _, vectors = np.linalg.eigh(weighted @ weighted.T)
    lines = vectors[:, ::-1][:, :rank].T @ weighted
    norms = np.linalg.norm(lines, axis=1, keepdims=True)
    return np.asarray(np.divide(lines, norms, out=np.zeros_like(lines), where=norms > 0))


def _as_int8(values: Float64, axis: int) -> tuple[Float64, Float64]:
    """(integers in ±127, scales) with one scale for each line along `axis`."""
    scale = np.abs(values).max(axis=axis) / 127
    wide = np.expand_dims(scale, axis)
    return np.rint(np.divide(values, wide, out=np.zeros_like(values), where=wide > 0)), scale
