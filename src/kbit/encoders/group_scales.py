"""Scales of a matrix that is encoded a group at a time: decided for the group's columns as they are by then.

The first decision is the nearest encoder's, for the original weights; it also fixes what belongs to the matrix as a whole (levels,
super-scale of e4m3). `decide` replaces it for one group. Scales of dq8 share a super-scale over all groups of a tile, so they stay as
first decided.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.encoders.hqq import half_quadratic
from kbit.encoders.inputs import Importance
from kbit.native import encoding as native
from kbit.tensor.blocks import TILE_ROWS, BlockLayout, rows_of_tiles, tiles_of_rows
from kbit.tensor.quantized import QuantizedTensor
from kbit.tensor.scales import decode_scale, round_scale, scale_anchor

__all__ = ["GroupScales"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]


class GroupScales:
    """Scales and zero points of one matrix by group.

    Attributes:
        value: what the stored scales mean, float32 [rows, groups].
        zero: zero points in level units, float32 [rows, groups]; zeros for a symmetric scheme.
    """

    def __init__(self, first: QuantizedTensor, *, threads: int = 0) -> None:
        """Start from the nearest encoding `first` [rows, cols] of the original weights."""
        rows, cols = first.shape
        self._layout, self._first, self._threads = BlockLayout.of(first.scheme, rows, cols), first, threads
        self._stored = rows_of_tiles(first.scale, rows).copy()
        self.value: Float32 = self._decoded(first.scale)
        self.zero: Float32 = np.zeros_like(self.value) if first.zero_point is None else self._untiled(first.zero_point).astype(np.float32)

    @property
    def can_decide(self) -> bool:
        """False where groups cannot choose their scales one after another."""
        return self._first.scheme.scale_dtype != "dq8"

    def decide(self, group: int, columns: Float32, importance: Importance | None) -> None:
        """Choose scale and zero point of `group` for its `columns` [rows, width] as they are now; importance is [width] or None."""
        scheme, levels = self._first.scheme, np.ascontiguousarray(self._first.levels)
        anchor, mirrored = scale_anchor(levels)
        options = native.EncodeOptions(
            levels, scheme.bits, columns.shape[1], anchor, mirrored, not scheme.symmetric, scheme.scale_search, scheme.scale_dtype
        )
        unit = 0.0 if self._first.super_scale is None else float(self._first.super_scale[0])
        _, encoded = native.encode(columns, options, importance=importance, matrix_super_scale=unit, threads=self._threads)
        if "hqq" in scheme.methods:
            encoded = half_quadratic(columns, encoded, options, importance=importance, matrix_super_scale=unit)
        self._stored[:, group] = self._untiled(encoded.scale)[:, 0]
        self.value[:, group] = self._decoded(encoded.scale)[:, 0]
        if encoded.zero_point is not None:
            self.zero[:, group] = self._untiled(encoded.zero_point)[:, 0]

    def rounded(self, rows: slice, scale: Float32) -> tuple[Array, Float32]:
        """(as stored, what that means) of other scales [n, groups] of `rows`."""
        unit = self._first.super_scale
        if unit is not None:
            unit = unit[:, None] if unit.size == 1 else np.repeat(unit, TILE_ROWS)[: self._layout.rows, None][rows]
        return round_scale(scale, unit, self._first.scheme.scale_dtype)

    def put(self, group: int, stored: Array, value: Float32) -> None:
        """Put `rounded` scales [rows] of one group in."""
        self._stored[:, group], self.value[:, group] = stored, value

    def take(self, rows: slice, chosen: npt.NDArray[np.bool_], stored: Array, value: Float32) -> None:
        """Put `rounded` scales [n, groups] in, in the rows that are `chosen` [n]."""
        self._stored[rows][chosen], self.value[rows][chosen] = stored[chosen], value[chosen]

    def parts(self) -> tuple[Array, Array | None]:
        """(scales, zero points or None) as stored, [tiles, groups, 16]."""
        symmetric = self._first.scheme.symmetric
        return tiles_of_rows(self._stored), None if symmetric else tiles_of_rows(self.zero.astype(np.uint8))

    def _decoded(self, scale: Array) -> Float32:
        return self._untiled(decode_scale(scale, self._first.super_scale, self._first.scheme.scale_dtype)).copy()

    def _untiled(self, tiled: Array) -> Array:
        return rows_of_tiles(tiled, self._layout.rows)
