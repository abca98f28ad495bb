"""Levels of a cascade whose grid fits them: the first ones to the weights, further ones to what the levels before leave; those of k-means
then settle together, scales, codes and levels in turns (Lloyd's algorithm over all levels).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kbit.core.scheme import Scheme
from kbit.encoders.inputs import Importance
from kbit.encoders.joint import level_codes, nearest_of_groups, search_scales
from kbit.encoders.nearest import encode
from kbit.grids import is_data_dependent, levels_for
from kbit.tensor.blocks import BlockLayout

__all__ = ["Levels", "moved_levels", "some_rows", "starting_levels"]

Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
#: ascending levels of each level
Levels = list[Float32]

#: rows of a matrix that teach the fitted levels, at even distances
_LEVEL_ROWS = 512
#: turns in which fitted levels settle
_SETTLING = 3
_RIDGE = 1e-6


def starting_levels(array: Float32, scheme: Scheme, name: str, importance: Float32 | None, threads: int) -> list[Levels]:
    """Levels of each level of each matrix."""
    first, *others = (replace(scheme, methods=(), parts=()), *scheme.residual_schemes())
    if not is_data_dependent(first):
        return [[levels_for(one) for one in (first, *others)]] * len(array)
    coded = encode(array, first, name=name, importance=importance, threads=threads)
    found = []
    for index, matrix in enumerate(coded.matrices()):
        levels, left = [matrix.levels], array[index] - matrix.dequantize()
        for scheme_of_level in others:
            one = encode(left, scheme_of_level, name=name, importance=None if importance is None else importance[index], threads=threads)
            levels.append(one.levels)
            left = left - one.dequantize()
        if len(array) == 1 and scheme.grid == "kmeans":
            size = BlockLayout.of(scheme, *array[index].shape).group_size
            levels = _settled(array[index], size, levels, None if importance is None else importance[index], threads)
        found.append(levels)
    return found


def _settled(weights: Float32, size: int, levels: Levels, importance: Importance | None, threads: int) -> Levels:
    """Fitted levels that have come to terms with one another: scales, codes and levels of some hundred rows in turns."""
    some = some_rows(weights)
    sample, weighed = weights[some], np.ones_like(weights[some]) if importance is None else importance[some]
    group = np.arange(weights.shape[1]) // size
    for _ in range(_SETTLING):
        value = search_scales(sample, size, levels, weighed, threads=threads)
        for _ in range(_SETTLING):
            codes = level_codes(nearest_of_groups(sample, size, value, levels), levels)
            levels = moved_levels(levels, codes, value[:, group], sample, lambda errors: weighed * errors)
    return levels


def some_rows(weights: Float32) -> slice:
    """Some hundred rows, at even distances."""
    return slice(0, None, -(-len(weights) // _LEVEL_ROWS))


def moved_levels(levels: Levels, codes: Sequence[Bytes], value: Float32, aims: Float32, weigh: Callable[[Float32], Float32]) -> Levels:
    """Levels of the least squared error `weigh` · error for these codes and scales [rows, cols, l], if they still ascend."""
    target, sizes = weigh(aims), [one.size for one in levels]
    ends = np.cumsum(sizes)
    square, linear = np.zeros((ends[-1], ends[-1])), np.zeros(ends[-1])
    for level, begin in enumerate(ends - sizes):
        for code in range(sizes[level]):
            chosen = value[..., level] * (codes[level] == code)
            linear[begin + code] = float((chosen * target).sum(dtype=np.float64))
            pulled = weigh(chosen)
            row = [np.bincount(codes[i].ravel(), (pulled * value[..., i]).ravel(), sizes[i]) for i in range(len(levels))]
            square[begin + code] = np.concatenate(row)
    before = np.concatenate(levels).astype(np.float64)
    ridge = _RIDGE * np.diagonal(square).mean() + np.finfo(np.float64).tiny
    fitted = before + np.linalg.solve(square + ridge * np.eye(len(square)), linear - square @ before)
    moved = np.split(fitted.astype(np.float32), ends[:-1])
    return moved if all(np.isfinite(one).all() and (np.diff(one) > 0).all() for one in moved) else levels
