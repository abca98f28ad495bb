"""Cascades: W ≈ Q₁(W) + Q₂(W − Q₁(W)) + …, encoded level after level, or the levels' codes chosen together (`kbit.encoders.joint`).

Encoded one after another (`encode_successively`), the first level clips and rounds as if nothing followed, and the next makes the best of
that; together (`encode_cascade`), one reaches where the other leaves gaps. So every choice there is among all sums of the levels: nearest
codes, GPTQ's column after column (`kbit.encoders.compensate`), and the descent that follows it (`kbit.encoders.refine`), in which all
scales of a row are one least squares system, and so are the fitted levels of a matrix.

Grids that fit their levels fit the first ones to the weights and each further ones to what the levels before leave; those of k-means then
settle together.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.scheme import Scheme
from kbit.encoders.compensate import Columns, column_order, compensate
from kbit.encoders.gptq import Effort, mean_importance
from kbit.encoders.group_scales import GroupScales
from kbit.encoders.hessian import damped_factor
from kbit.encoders.holes import Holes
from kbit.encoders.inputs import Importance
from kbit.encoders.joint import joint_levels, level_codes, nearest_joint, search_scales
from kbit.encoders.nearest import encode
from kbit.encoders.refine import Chosen, sweep_codes, take_scales
from kbit.grids import is_data_dependent, levels_for
from kbit.tensor.blocks import BlockLayout, rows_of_tiles, tiles_of_rows
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor, pad_codebook
from kbit.tensor.residual import residual_parts
from kbit.tensor.scales import round_scale, scale_values

__all__ = ["encode_cascade", "encode_successively", "rounded_by"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Levels = list[Float32]

#: rows of a matrix that teach the fitted levels, at even distances
_LEVEL_ROWS = 512
#: turns in which fitted levels settle
_SETTLING = 3
_RIDGE = 1e-6


def encode_cascade(
    array: Float32,
    scheme: Scheme,
    *,
    name: str,
    importance: Float32 | None = None,
    hessians: Sequence[Array] = (),
    effort: Effort | None = None,
    holes: Sequence[Holes] | None = None,
    threads: int = 0,
) -> list[QuantizedTensor]:
    """Encode matrices of one tensor, which share the fitted levels of their first codes.

    Args:
        array: finite, [matrices, rows, cols], rotated already where the scheme says so.
        scheme: the recipe, without other parts than ``residual``.
        name: what errors call the tensor.
        importance: weights of the squared error, what broadcasts to `array`, without `hessians`.
        hessians: checked, one for each matrix, of the inputs as the codes see them; with `effort`.
        effort: how GPTQ goes about it; None for the nearest codes.
        holes: weights of each matrix that its codes do not decide, with `effort`.
        threads: of the native encoder; the result does not depend on it.
    """
    diagonals = np.stack([mean_importance(one) for one in hessians]) if effort is not None else None
    weighed = importance
    if diagonals is not None and "imp" in scheme.methods:
        weighed = diagonals[:, None]
    if holes is not None:
        held = np.stack([one.held for one in holes])
        array = np.where(held, np.float32(0), array) if effort is None else array
        weighed = np.where(held, np.float32(0), np.float32(1) if weighed is None else weighed)
    given = None if weighed is None else np.broadcast_to(weighed, array.shape)
    levels = _starting_levels(array, scheme, name, given, threads)
    done = []
    for index, weights in enumerate(array):
        if effort is None or diagonals is None:
            one = _nearest(weights, scheme, levels[index], None if given is None else given[index], threads)
        else:
            hole = None if holes is None else holes[index]
            one = _compensated(weights, scheme, levels[index], hessians[index], diagonals[index], effort, hole, alone=len(array) == 1)
        done.append(one)
    return done


def encode_successively(
    array: Float32, scheme: Scheme, encode_one: Callable[[Float32, Scheme], list[QuantizedTensor]]
) -> list[QuantizedTensor]:
    """Encode matrices [matrices, rows, cols] level after level: each is what `encode_one` makes of what is left."""
    left, found = array, []
    for level in (replace(scheme, parts=()), *(replace(one, methods=scheme.methods) for one in scheme.residual_schemes())):
        found.append(encode_one(left, level))
        left = left - np.stack([one.dequantize() for one in found[-1]])
    done = []
    for matrix in zip(*found, strict=True):
        parts = dict(matrix[0].parts())
        for number, level in enumerate(matrix[1:], 1):
            parts |= residual_parts(number, level.parts())
        done.append(QuantizedTensor.from_parts(scheme, matrix[0].shape, parts))
    return done


def rounded_by(weights: Float32, tensor: QuantizedTensor) -> Float32:
    """`weights` [rows, cols] as codes of the scales and levels of `tensor`, a cascade or not, would have them."""
    rows, cols = weights.shape
    levels = [tensor, *tensor.residual_levels()]
    joint = joint_levels([one.levels for one in levels])
    value = np.stack([rows_of_tiles(scale_values(one), rows) for one in levels], axis=2)
    size = BlockLayout.of(tensor.scheme, rows, cols).group_size
    parts = [nearest_joint(weights[:, begin : begin + size], value[:, group], joint)[1] for group, begin in enumerate(range(0, cols, size))]
    return np.concatenate(parts, axis=1)


def _starting_levels(array: Float32, scheme: Scheme, name: str, importance: Float32 | None, threads: int) -> list[Levels]:
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


def _nearest(weights: Float32, scheme: Scheme, levels: Levels, importance: Importance | None, threads: int) -> QuantizedTensor:
    size = BlockLayout.of(scheme, *weights.shape).group_size
    value = search_scales(weights, size, levels, importance, threads=threads)
    return _packed(scheme, weights.shape, _codes(weights, size, value, levels), value, levels)


def _codes(weights: Float32, size: int, value: Float32, levels: Levels) -> Bytes:
    """Nearest joint codes for scales [rows, groups, l]."""
    joint, starts = joint_levels(levels), enumerate(range(0, weights.shape[1], size))
    return np.concatenate([nearest_joint(weights[:, begin : begin + size], value[:, group], joint)[0] for group, begin in starts], axis=1)


def _packed(scheme: Scheme, shape: tuple[int, ...], codes: Bytes, value: Float32, levels: Levels) -> QuantizedTensor:
    parts: dict[str, Array] = {}
    bits = (scheme.bits, *scheme.spec.residual)
    for number, of_level in enumerate(level_codes(codes, levels)):
        level: dict[str, Array] = {"weight": pack(of_level, bits[number])}
        level["weight_scale"] = tiles_of_rows(round_scale(value[..., number], None, "fp16")[0])
        if is_data_dependent(scheme):
            level["weight_codebook"] = pad_codebook(levels[number], bits[number])
        parts |= residual_parts(number, level) if number else level
    return QuantizedTensor.from_parts(scheme, shape, parts)


class CascadeScales(GroupScales):
    """Scales of all levels of a matrix: `value` is float32 [rows, groups, l]. Each group's are decided when it is reached."""

    def __init__(self, shape: tuple[int, ...], groups: int, levels: Levels, *, threads: int = 0) -> None:
        self.levels, self._threads = levels, threads
        self.value = np.zeros((shape[0], groups, len(levels)), np.float32)
        self._stored = self.value.astype(np.uint16)
        self.zero = np.zeros((shape[0], groups), np.float32)

    def decide(self, group: int, columns: Float32, importance: Importance | None) -> None:
        """See `GroupScales.decide`."""
        found = search_scales(columns, columns.shape[1], self.levels, importance, threads=self._threads)
        self.put(group, *self.rounded(slice(None), found[:, 0]))

    def rounded(self, rows: slice, scale: Float32) -> tuple[Array, Float32]:
        """See `GroupScales.rounded`; of any shape."""
        return round_scale(scale, None, "fp16")

    def in_a_row(self) -> "CascadeScales":
        """The same scales in shared memory, those of a row's groups and levels one after another: value [rows, groups · l]."""
        flat = CascadeScales.__new__(CascadeScales)
        flat.value, flat._stored = self.value.reshape(len(self.value), -1), self._stored.reshape(len(self._stored), -1)
        return flat


def _compensated(
    weights: Float32, scheme: Scheme, levels: Levels, hessian: Array, diagonal: Float32, effort: Effort, holes: Holes | None, *, alone: bool
) -> QuantizedTensor:
    layout = BlockLayout.of(scheme, *weights.shape)
    size, joint = layout.group_size, joint_levels(levels)
    scales = CascadeScales(weights.shape, layout.groups, levels, threads=effort.threads)
    order = column_order(diagonal, size)
    factor = damped_factor(hessian[np.ix_(order, order)], effort.name, damping=effort.damping).astype(np.float32)
    columns = Columns(weights.T[order], order, order // size, diagonal if "imp" in scheme.methods else None, holes)
    seen = bool(hessian.any())
    tried = effort.multipliers if seen else ()
    codes = compensate(columns, factor, scales, joint, grouped=True, dynamic=True, multipliers=tried, block=effort.block)
    chosen = Chosen(weights, hessian, codes, scales, size, seen, holes)
    fits = scheme.grid == "kmeans" and alone
    levels = _refined(chosen, levels, fit_levels=fits, rounds=effort.rounds) if seen else levels
    return _packed(scheme, weights.shape, chosen.codes, scales.value, levels)


def _refined(matrix: Chosen, levels: Levels, *, fit_levels: bool, rounds: int) -> Levels:
    """Lower the loss of a matrix with joint codes as `kbit.encoders.refine` does; returns the levels in use then, as many as before."""
    for _ in range(rounds):
        _fit_scales(matrix, levels)
        if fit_levels:
            levels = _fit_levels(matrix, levels)
        sweep_codes(matrix, joint_levels(levels))
    return levels


def _units(matrix: Chosen, rows: slice, levels: Levels) -> Float32:
    """What the codes of each level say in units of their scales, [l, n, cols]; 0 where codes do not decide."""
    units = np.moveaxis(joint_levels(levels)[matrix.codes[rows]], 2, 0)
    return units if matrix.holes is None else np.where(matrix.holes.held[rows], np.float32(0), units)


def _fit_scales(matrix: Chosen, levels: Levels) -> None:
    """Least squares for all scales of a row together."""
    hessian, starts, scales = matrix.hessian, np.arange(0, matrix.weights.shape[1], matrix.group_size), matrix.scales
    assert isinstance(scales, CascadeScales)
    unknowns = len(starts) * len(levels)
    step = max((1 << 24) // unknowns**2, 1)
    for begin in range(0, len(matrix.weights), step):
        rows = slice(begin, begin + step)
        units = _units(matrix, rows, levels)
        pull, n = matrix.aims(rows) @ hessian, units.shape[1]
        linear = np.stack([np.add.reduceat(pull * unit, starts, axis=1, dtype=np.float64) for unit in units], axis=2)
        square = np.empty((n, len(starts), len(levels), len(starts), len(levels)))
        for index, start in enumerate(starts):
            part = slice(start, start + matrix.group_size)
            for level, unit in enumerate(units):
                moved = unit[:, part] @ hessian[part]
                for other, beside in enumerate(units):
                    square[:, index, level, :, other] = np.add.reduceat(moved * beside, starts, axis=1, dtype=np.float64)
        flat = square.reshape(n, unknowns, unknowns)
        take_scales(scales.in_a_row(), rows, linear.reshape(n, unknowns), (flat + flat.transpose(0, 2, 1)) / 2)


def _fit_levels(matrix: Chosen, levels: Levels) -> Levels:
    """Least squares for all levels together, from some hundred rows."""
    hessian, rows = matrix.hessian, _some(matrix.weights)
    value = matrix.scales.value[rows][:, matrix.group]
    if matrix.holes is not None:
        value = np.where(matrix.holes.held[rows][..., None], np.float32(0), value)
    return _moved_levels(levels, level_codes(matrix.codes[rows], levels), value, matrix.aims(rows), lambda errors: errors @ hessian)


def _some(weights: Float32) -> slice:
    return slice(0, None, -(-len(weights) // _LEVEL_ROWS))


def _moved_levels(levels: Levels, codes: Sequence[Bytes], value: Float32, aims: Float32, weigh: Callable[[Float32], Float32]) -> Levels:
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
    return moved if np.isfinite(fitted).all() and all((np.diff(one) > 0).all() for one in moved) else levels


def _settled(weights: Float32, size: int, levels: Levels, importance: Importance | None, threads: int) -> Levels:
    """Fitted levels that have come to terms with one another: scales, codes and levels of some hundred rows in turns."""
    some = _some(weights)
    sample, weighed = weights[some], np.ones_like(weights[some]) if importance is None else importance[some]
    group = np.arange(weights.shape[1]) // size
    for _ in range(_SETTLING):
        value = search_scales(sample, size, levels, weighed, threads=threads)
        for _ in range(_SETTLING):
            codes = level_codes(_codes(sample, size, value, levels), levels)
            levels = _moved_levels(levels, codes, value[:, group], sample, lambda errors: weighed * errors)
    return levels
