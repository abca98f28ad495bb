"""Codes of several levels chosen together: ŵ = Σ_l scale_l · level_l[code_l], l over the levels of a cascade.

To whatever chooses codes, the levels of a cascade are one grid: a joint code stands for one code of each level, and for given scales its
amounts are a codebook of the group. `joint_levels` has an entry [level] for each joint code, codes of the last level running fastest.

Scales of a group are searched by way of one-dimensional grids: with fixed ratios of the scales, the sums are the levels of an ordinary grid
with one scale, which the native encoder searches. At one ratio the second level's range is one step of the first, and the sums lie evenly;
at two to three times that the ranges overlap, and the sums lie densest in the middle, as weights do. The best is
then polished by least squares for all scales of the group and nearest codes in turns (Lloyd 1982).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.encoders.inputs import Importance
from kbit.native import encoding as native
from kbit.tensor.blocks import rows_of_tiles
from kbit.tensor.scales import decode_scale, round_scale, scale_anchor

__all__ = ["joint_levels", "level_codes", "nearest_joint", "search_scales", "sums_of"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: ratios of scales that are tried, in parts of the one at which the ranges of levels meet; their negatives too
RATIOS = (0.8, 1.0, 1.25, 1.6, 2.0, 2.4, 2.6, 2.8, 3.0, 3.2)
_POLISH_ROUNDS = 3
#: amounts that are held at once
_AMOUNTS = 1 << 22


def joint_levels(levels: Sequence[Float32]) -> Float32:
    """Entry of each joint code, float32 [∏ n_l, l], for ascending levels [n_l] each."""
    return np.stack([grid.reshape(-1) for grid in np.meshgrid(*levels, indexing="ij")], axis=1)


def level_codes(codes: Bytes, levels: Sequence[Float32]) -> list[Bytes]:
    """Joint codes as the codes of each level."""
    return [part.astype(np.uint8) for part in np.unravel_index(codes, tuple(one.size for one in levels))]


def sums_of(value: Float32, joint: Float32) -> Float32:
    """Amounts of all joint codes, [..., n], for scales [..., l]; added level after level, as readers do."""
    total = value[..., :1] * joint[:, 0]
    for level in range(1, joint.shape[1]):
        total += value[..., level, None] * joint[:, level]
    return np.asarray(total, np.float32)


def nearest_joint(target: Float32, value: Float32, joint: Float32) -> tuple[Bytes, Float32]:
    """Joint codes nearest to `target` [rows] or [rows, n], and their amounts, for scales [rows, l] of each row; the first of a tie."""
    sums = sums_of(value, joint)
    if target.ndim == 1:
        codes = np.abs(target[:, None] - sums).argmin(axis=1)
        return codes.astype(np.uint8), sums[np.arange(len(target)), codes]
    codes, step = np.empty(target.shape, np.uint8), max(_AMOUNTS // (target.shape[1] * len(joint)), 1)
    for begin in range(0, len(target), step):
        rows = slice(begin, begin + step)
        codes[rows] = np.abs(target[rows, :, None] - sums[rows, None, :]).argmin(axis=2)
    return codes, np.take_along_axis(sums, codes.astype(np.intp), axis=1)


def search_scales(
    weights: Float32, group_size: int, levels: Sequence[Float32], importance: Importance | None = None, *, threads: int = 0
) -> Float32:
    """Scales of the least squared error, as fp16 holds them: float32 [rows, groups, l].

    Args:
        weights: finite, [rows, cols].
        group_size: columns that share a scale.
        levels: of each level, ascending.
        importance: weights of the squared error, [cols] or [rows, cols].
        threads: of the native encoder; the result does not depend on it.
    """
    starts, joint = np.arange(0, weights.shape[1], group_size), joint_levels(levels)
    weighed = np.broadcast_to(np.float32(1) if importance is None else importance, weights.shape)
    groups = -(-weights.shape[1] // group_size)
    best, scales = np.full((len(weights), groups), np.inf), np.zeros((len(weights), groups, len(levels)), np.float32)
    for ratios in _ratios(levels):
        scale, amounts = _one_scale(weights, group_size, np.unique(sums_of(ratios, joint)), importance, threads)
        loss = np.add.reduceat(weighed * np.square(weights - amounts, dtype=np.float64), starts, axis=1)
        better = loss < best
        best = np.where(better, loss, best)
        scales = np.where(better[..., None], scale[..., None] * ratios, scales)
    _, scales = round_scale(scales, None, "fp16")
    for group, start in enumerate(starts):
        part = slice(start, start + group_size)
        scales[:, group] = _polished(weights[:, part], weighed[:, part], scales[:, group], joint)
    return scales


def _ratios(levels: Sequence[Float32]) -> Iterator[Float32]:
    """Ratios of the levels' scales to the first's, [l] each."""
    steps = [1.0]
    for before, level in pairwise(levels):
        steps.append(steps[-1] * _step(before) / max(_span(level) + _step(level), 1e-6))
    signs = (1.0,) if all(np.array_equal(-level[::-1], level) for level in levels[1:]) else (1.0, -1.0)
    for factor in RATIOS:
        for sign in signs:
            yield np.array([steps[0], *(sign * factor * step for step in steps[1:])], np.float32)


def _span(level: Float32) -> float:
    return float(level[-1]) - float(level[0])


def _step(level: Float32) -> float:
    return _span(level) / (level.size - 1) if level.size > 1 else 1.0


def _one_scale(weights: Float32, group_size: int, sums: Float32, importance: Importance | None, threads: int) -> tuple[Float32, Float32]:
    """(scales [rows, groups], what is then encoded) of a grid with the levels `sums`."""
    rows, cols = weights.shape
    bits = max((sums.size - 1).bit_length(), 1)
    anchor, mirrored = scale_anchor(sums)
    options = native.EncodeOptions(sums, bits, group_size, anchor, mirrored, False, "mse", "fp16")
    given = None if importance is None else np.ascontiguousarray(importance)
    _, encoded = native.encode(np.ascontiguousarray(weights), options, importance=given, threads=threads)
    scale = rows_of_tiles(decode_scale(encoded.scale, None, "fp16"), rows)
    codes = native.unpack(encoded.planes, rows, cols, bits, threads=threads)
    return scale, sums[codes] * scale[:, np.arange(cols) // group_size]


def _polished(weights: Float32, weighed: Float32, value: Float32, joint: Float32) -> Float32:
    """Scales [rows, l] of one group after some turns of least squares and nearest codes, where they lose less."""
    codes, amounts = nearest_joint(weights, value, joint)
    loss = (weighed * np.square(weights - amounts, dtype=np.float64)).sum(axis=1)
    for _ in range(_POLISH_ROUNDS):
        units = joint[codes].astype(np.float64)
        square = np.einsum("rj,rjl,rjm->rlm", weighed, units, units, optimize=True)
        linear = np.einsum("rj,rjl->rl", weighed * weights, units, optimize=True)
        ridge = 1e-6 * np.einsum("rll->r", square) + np.finfo(np.float64).tiny
        solved = np.linalg.solve(square + ridge[:, None, None] * np.eye(joint.shape[1]), linear[..., None])[..., 0]
        _, tried = round_scale(np.where(np.isfinite(solved), solved, value).astype(np.float32), None, "fp16")
        codes_then, amounts = nearest_joint(weights, tried, joint)
        then = (weighed * np.square(weights - amounts, dtype=np.float64)).sum(axis=1)
        better = then < loss
        if not better.any():
            break
        loss, value, codes = (
            np.where(better, then, loss),
            np.where(better[:, None], tried, value),
            np.where(better[:, None], codes_then, codes),
        )
    return value
