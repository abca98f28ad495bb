"""The nearest-level encoder in plain numpy: the oracle of the native one, written to be read. Equal to it bit for bit.

Weights are handled as [rows, groups, width]: every group padded to the same width (a multiple of 8) with weights and importance
of 0. `kbit.encoders.nearest` and `csrc/encode/search.h` say what is computed; here is how, in the same order of operations.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.scheme import Scheme
from kbit.tensor.blocks import TILE_ROWS, BlockLayout, tiles_of_rows
from kbit.tensor.packing import reference_pack
from kbit.tensor.quantized import QuantizedTensor, pad_codebook
from kbit.tensor.scales import round_scale, scale_anchor, super_scale_for

__all__ = ["MULTIPLIERS", "nearest_codes", "reference_encode"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: scales that the mse search tries, in parts of the absmax scale
MULTIPLIERS: Float32 = np.array([1.3, 1.15, 1.05, 0.95, 0.9, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25], np.float32)
_REFITS = 4
_LANES = 8
_FEW_LEVELS = 16


def nearest_codes(weights: Float32, scale: Float32, zero_point: Float32, levels: Float32) -> npt.NDArray[np.uint8]:
    """Number of midpoints below w / scale + zero_point (zero_point alone where scale is 0); arguments broadcast."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        t = np.where(scale == 0, np.float32(0), weights / scale) + zero_point
    middles = (levels[:-1] + levels[1:]) * np.float32(0.5)
    t = np.asarray(t, np.float32)
    if levels.size > _FEW_LEVELS:
        return np.searchsorted(middles, t, side="left").astype(np.uint8)
    codes = np.zeros(t.shape, np.uint8)
    for middle in middles:  # several times as fast as a search
        codes += t > middle
    return codes


@dataclass(frozen=True)
class _Choice:
    """One scale a group: stored form, value, zero point, and what the search knows of it; arrays [rows, groups]."""

    stored: Array
    value: Float32
    zero: Float32
    product: Float64  # A = Σ p·w·v
    square: Float64  # B = Σ p·v²
    gain: Float64  # value·(2A − value·B)

    def where(self, take: Array, other: "_Choice") -> "_Choice":
        """`other` in the groups to `take`, else this one."""
        return _Choice(*(np.where(take, getattr(other, field.name), getattr(self, field.name)) for field in fields(self)))

    def better(self, other: "_Choice") -> "_Choice":
        """`other` where it gains strictly more."""
        return self.where(other.gain > self.gain, other)


class _Search:
    """Evaluates candidate scales of all groups of a matrix at once."""

    def __init__(self, groups: Float32, importance: Float64, levels: Float32, scheme: Scheme, super_scale: Float32 | None) -> None:
        self.groups, self.importance, self.levels, self.scheme, self.super_scale = groups, importance, levels, scheme, super_scale

    def evaluate(self, scale: Float32, zero: Float32) -> _Choice:
        """The candidate `scale`, rounded to its stored form, with zero points `zero`."""
        stored, value = round_scale(scale, self.super_scale, self.scheme.scale_dtype)
        codes = nearest_codes(self.groups, value[..., None], zero[..., None], self.levels)
        level = (self.levels[codes] - zero[..., None]).astype(np.float64)
        product = _lane_sum((self.importance * self.groups.astype(np.float64)) * level)
        square = _lane_sum(self.importance * (level * level))
        s = value.astype(np.float64)
        gain = np.where(value == 0, 0.0, s * (2.0 * product - s * square))
        return _Choice(stored, value, zero, np.where(value == 0, 0.0, product), np.where(value == 0, 0.0, square), gain)

    def sweep(self, best: _Choice, absmax: Float32, zero: Float32) -> _Choice:
        """The best of `best` and all multiples of the absmax scale."""
        for multiplier in MULTIPLIERS:
            with np.errstate(over="ignore", under="ignore"):
                best = best.better(self.evaluate(absmax * multiplier, zero))
        return best

    def refit(self, best: _Choice) -> _Choice:
        """Least-squares refits, as long as they gain."""
        active = best.square > 0
        for _ in range(_REFITS):
            with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
                scale = np.where(active, best.product / best.square, 0.0).astype(np.float32)
            candidate = self.evaluate(scale, best.zero)
            active = active & (candidate.gain > best.gain)
            best = best.where(active, candidate)
            active = active & (best.square > 0)
        return best


def _lane_sum(values: Float64) -> Float64:
    """Sum over the last axis: element j into lane j mod 8, ascending; lanes joined as ((0+4)+(1+5)) + ((2+6)+(3+7))."""
    lanes = values.reshape(*values.shape[:-1], -1, _LANES)
    total = np.zeros_like(lanes[..., 0, :])
    for index in range(lanes.shape[-2]):
        total = total + lanes[..., index, :]
    pair = total[..., :4] + total[..., 4:]
    return np.asarray((pair[..., 0] + pair[..., 1]) + (pair[..., 2] + pair[..., 3]))


def reference_encode(weights: Float32, scheme: Scheme, levels: Float32, importance: Float32 | None = None) -> QuantizedTensor:
    """Encode a finite float32 matrix with the given levels; importance is [cols] or [rows, cols]."""
    rows, cols = weights.shape
    scheme = scheme.for_row(cols)
    layout = BlockLayout.of(scheme, rows, cols)
    groups = _grouped(weights, layout)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    absmax = _absmax_scale(low, high, levels, scheme)
    super_scale, spread_super = _super_scales(absmax, scheme, levels)
    _, value = round_scale(absmax, spread_super, scheme.scale_dtype)
    zero = _zero_points(low, value, levels) if not scheme.symmetric else np.zeros_like(value)
    given = np.ones(weights.shape) if importance is None else np.broadcast_to(importance, weights.shape).astype(np.float64)
    search = _Search(groups, _grouped(given, layout), levels, scheme, spread_super)
    best = search.evaluate(absmax, zero)
    if scheme.scale_search == "mse":
        best = search.sweep(best, absmax, zero)
        if scheme.symmetric and not np.array_equal(levels, -levels[::-1]):
            best = search.sweep(best, -absmax, zero)
        if not scheme.symmetric:
            last = np.float32(levels.size - 1)
            best = search.sweep(best, absmax, np.maximum(zero - 1, np.float32(0)))
            best = search.sweep(best, absmax, np.minimum(zero + 1, last))
        best = search.refit(best)
    codes = nearest_codes(groups, best.value[..., None], best.zero[..., None], levels).reshape(rows, -1, groups.shape[-1])
    return QuantizedTensor(
        scheme,
        (rows, cols),
        reference_pack(np.ascontiguousarray(codes[..., : layout.group_size].reshape(rows, -1)[:, :cols]), scheme.bits),
        tiles_of_rows(best.stored),
        super_scale,
        None if scheme.symmetric else tiles_of_rows(best.zero.astype(np.uint8)),
        pad_codebook(levels, scheme.bits) if scheme.grid in ("quantile", "kmeans") else None,
    )


def _grouped(values: Array, layout: BlockLayout) -> Array:
    width = layout.group_size
    padded = np.zeros((layout.rows, layout.groups * width), values.dtype)
    padded[:, : layout.cols] = values
    groups = padded.reshape(layout.rows, layout.groups, width)
    return np.pad(groups, ((0, 0), (0, 0), (0, -width % _LANES)))


def _absmax_scale(low: Float32, high: Float32, levels: Float32, scheme: Scheme) -> Float32:
    anchor, mirrored = scale_anchor(levels)
    with np.errstate(over="ignore", under="ignore"):
        if anchor == 0:
            return np.zeros_like(low)
        if not scheme.symmetric:
            steps = (high.astype(np.float64) - low.astype(np.float64)) / (levels.size - 1)
            return np.minimum(steps, np.finfo(np.float32).max).astype(np.float32)
        extreme = np.where(high >= -low, high, low)
        if mirrored:
            extreme, anchor = np.abs(extreme), abs(anchor)
        return np.asarray(extreme / np.float32(anchor), np.float32)


def _super_scales(absmax: Float32, scheme: Scheme, levels: Float32) -> tuple[Float32 | None, Float32 | None]:
    """(as stored, spread to [rows, 1])."""
    if scheme.scale_dtype == "fp16":
        return None, None
    anchor, _ = scale_anchor(levels)
    rows = len(absmax)
    if scheme.scale_dtype == "e4m3":
        stored = super_scale_for(np.abs(absmax).max(keepdims=True)[0], scheme.scale_dtype, anchor)
        return stored, np.broadcast_to(stored, (rows, 1))
    stored = super_scale_for(np.abs(tiles_of_rows(absmax)).max(axis=(1, 2)), scheme.scale_dtype, anchor)
    return stored, np.repeat(stored, TILE_ROWS)[:rows, None]


def _zero_points(low: Float32, value: Float32, levels: Float32) -> Float32:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps = np.where(value == 0, 0.0, -low.astype(np.float64) / value.astype(np.float64))
    rounded: Float32 = np.rint(np.clip(steps, 0, levels.size - 1)).astype(np.float32)
    return rounded
