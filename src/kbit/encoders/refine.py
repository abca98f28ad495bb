"""Refinement of codes, scales and levels under the whole Hessian, after GPTQ has gone through the columns once.

GPTQ chooses each code while all later ones are still free. Once all are chosen, e H eᵀ (`kbit.encoders.hessian`) is lowered further by
three steps in turns:

    scales   w ≈ Σ_g s_g v_g with v_g the levels (less the zero point) of group g: least squares under H, a system of as many unknowns as
             groups for each row; rounded to the stored form, and kept where the row then loses less
    levels   (k-means) ŵ is linear in the 2^k levels too: one system for all matrices that share the codebook, of some
             hundred rows of each
    codes    coordinate descent: column after column, code j takes the level nearest to w_j + Σ_{i≠j} e_i H_ij / H_jj

Weights that codes do not decide (`kbit.encoders.holes`) stay so: what is pruned stays 0, and what is in 16 bits is a coordinate that takes
any value. Neither counts in the systems of scales and levels.

Coordinate descent on codes is used likewise by CDQuant (Nair & Suggala 2024) and QuantEase (Behdin et al. 2023).

Memory: three float32 copies of the matrix and one of H.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.encoders.group_scales import GroupScales
from kbit.encoders.hessian import damped
from kbit.encoders.holes import Holes, round_column
from kbit.encoders.scale_equations import ROWS_AT_ONCE, scale_equations

__all__ = ["Chosen", "refine", "sweep_codes", "take_scales"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_BLOCK = 64
_RIDGE = 1e-7
#: rows of a matrix that teach the levels, at even distances
_LEVEL_ROWS = 512


@dataclass(slots=True, eq=False)
class Chosen:
    """A matrix with what has been chosen for it so far; `refine` changes codes and scales.

    Attributes:
        weights: what is encoded, float32 [rows, cols].
        inputs: the Hessian as it was gathered, [cols, cols], perhaps in a file; `hessian` is it damped, float32.
        codes: uint8 [rows, cols]; joint ones where several levels have codes (`kbit.encoders.joint`).
        scales: scales and zero points.
        group_size: columns that share a scale.
        seen: False for inputs that were never seen: its scales stay, and it does not take part in the levels.
        holes: weights that codes do not decide; None for none.
    """

    weights: Float32
    inputs: Array
    codes: Bytes
    scales: GroupScales
    group_size: int
    seen: bool
    holes: Holes | None = None

    @property
    def hessian(self) -> Float32:
        """Positive definite, made anew."""
        return damped(self.inputs)

    @property
    def group(self) -> npt.NDArray[np.intp]:
        """The group of each column."""
        return np.arange(self.weights.shape[1]) // self.group_size

    def aims(self, rows: slice) -> Float32:
        """What codes of `rows` are to make up: the weights less what is in 16 bits."""
        weights = self.weights[rows]
        return weights if self.holes is None else np.where(self.holes.exact[rows], weights - self.holes.total[rows], weights)

    def units(self, rows: slice, levels: Float32) -> Float32:
        """What codes of `rows` say in units of their scale, 0 where they do not decide."""
        unit = levels[self.codes[rows]] - self.scales.zero[rows][:, self.group]
        return unit if self.holes is None else np.where(self.holes.held[rows], np.float32(0), unit)

    def amounts(self, levels: Float32) -> Float32:
        """What the matrix amounts to, [rows, cols]."""
        if levels.ndim == 2:
            decoded = np.zeros_like(self.weights)
            for level in range(levels.shape[1]):
                decoded += levels[self.codes, level] * self.scales.value[:, self.group, level]
        else:
            decoded = (levels[self.codes] - self.scales.zero[:, self.group]) * self.scales.value[:, self.group]
        return decoded if self.holes is None else self.holes.around(decoded)


def refine(matrices: Sequence[Chosen], levels: Float32, *, fit_levels: bool, rounds: int) -> Float32:
    """Lower the loss of `matrices`, which share `levels`; returns the levels in use then, as many as before.

    Args:
        matrices: each is changed in place.
        levels: ascending float32.
        fit_levels: whether levels may move.
        rounds: scales, levels and codes in turns, so often.
    """
    for _ in range(rounds):
        for matrix in matrices:
            if matrix.seen:
                _fit_scales(matrix, levels)
        if fit_levels:
            levels = _fit_levels([matrix for matrix in matrices if matrix.seen], levels, matrices)
        for matrix in matrices:
            if matrix.seen or fit_levels:
                sweep_codes(matrix, levels)
    return levels


def _fit_scales(matrix: Chosen, levels: Float32) -> None:
    hessian = matrix.hessian
    for begin in range(0, len(matrix.weights), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        linear, square = scale_equations(matrix.units(rows, levels), matrix.aims(rows), hessian, matrix.group_size)
        take_scales(matrix.scales, rows, linear, square)


def take_scales(scales: GroupScales, rows: slice, linear: Float64, square: Float64) -> None:
    """Scales that minimise s·square·s − 2·linear·s, where they do so as stored."""
    now = scales.value[rows].astype(np.float64)
    diagonal = np.einsum("rgg->rg", square)
    free = diagonal > 0  # a group of zeros says nothing of its scale
    groups = np.arange(square.shape[1])
    solvable = square.copy()
    solvable[:, groups, groups] += np.where(free, _RIDGE * diagonal.mean(1, keepdims=True), 1.0)
    solved = np.linalg.solve(solvable, linear[..., None])[..., 0]
    fits = free & np.isfinite(solved)
    stored, value = scales.rounded(rows, np.where(fits, solved, now).astype(np.float32))

    def loss(s: Float64) -> Float64:
        return np.asarray(np.einsum("rg,rgh,rh->r", s, square, s) - 2 * (linear * s).sum(1))

    better = loss(value.astype(np.float64)) < loss(now)
    scales.take(rows, better, stored, value)


def _fit_levels(seen: Sequence[Chosen], levels: Float32, matrices: Sequence[Chosen]) -> Float32:
    count = levels.size
    square, linear = np.zeros((count, count)), np.zeros(count)
    for matrix in seen:
        _add_level_equations(matrix, levels, square, linear)
    used = np.diagonal(square) > 0
    if not used.any():
        return levels
    system = square[np.ix_(used, used)]
    system[np.diag_indices_from(system)] *= 1 + _RIDGE
    fitted = levels.astype(np.float64)
    fitted[used] = np.linalg.solve(system, linear[used])
    order = np.argsort(fitted, kind="stable")
    moved = fitted[order].astype(np.float32)
    if not np.isfinite(moved).all() or (np.diff(moved) <= 0).any():
        return levels
    place = np.argsort(order).astype(np.uint8)
    for matrix in matrices:
        matrix.codes = place[matrix.codes]
    return moved


def _add_level_equations(matrix: Chosen, levels: Float32, square: Float64, linear: Float64) -> None:
    hessian = matrix.hessian
    rows = slice(0, None, -(-len(matrix.weights) // _LEVEL_ROWS))
    scale, zero, codes = matrix.scales.value[rows][:, matrix.group], matrix.scales.zero[rows][:, matrix.group], matrix.codes[rows]
    if matrix.holes is not None:
        scale[matrix.holes.held[rows]] = 0
    target = (matrix.aims(rows) + zero * scale) @ hessian
    for level in range(levels.size):
        chosen = scale * (codes == level)
        linear[level] += float((chosen * target).sum(dtype=np.float64))
        square[level] += np.bincount(codes.ravel(), ((chosen @ hessian) * scale).ravel(), levels.size)


def sweep_codes(matrix: Chosen, levels: Float32) -> None:
    """Choose every code once more, left to right, all others being as they are."""
    weights, hessian, scales, group = matrix.weights.T, matrix.hessian, matrix.scales, matrix.group
    codes = np.ascontiguousarray(matrix.codes.T)
    error = np.ascontiguousarray(weights - matrix.amounts(levels).T)
    for begin in range(0, len(codes), _BLOCK):
        end = min(begin + _BLOCK, len(codes))
        pull = hessian[begin:end] @ error
        for j in range(begin, end):
            g, own = group[j], hessian[j, j]
            target = weights[j] + pull[j - begin] / own - error[j]
            codes[j], amount = round_column(matrix.holes, j, target, scales.value[:, g], scales.zero[:, g], levels)
            after = weights[j] - amount
            pull[j + 1 - begin :] += hessian[j + 1 : end, j, None] * (after - error[j])
            error[j] = after
    matrix.codes = np.ascontiguousarray(codes.T)
    if matrix.holes is not None:
        matrix.holes.total = np.ascontiguousarray((weights - error).T)
