"""Nearest encoding in nested codes with searched scales, a piece of rows at a time: `NearestEncoder` where every k counts.

Levels of all k and scales are fitted together (`kbit.encoders.nested_scales`); no level is held at a group's largest weight. A code is
that of the nearest of the 2^K levels, for the scale as stored, and its first k bits are what a reader of k bits sees.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.encoders.inputs import as_float32
from kbit.encoders.nearest import NearestEncoder, Segment
from kbit.encoders.nested_scales import FINE, LARGEST, Tree, UnitGroups, fit_tree
from kbit.encoders.reference import nearest_codes
from kbit.encoders.vector_nearest import VectorSample
from kbit.encoders.vectors import VectorGroups
from kbit.native import encoding as native
from kbit.tensor.blocks import TILE_ROWS, tiles_of_rows
from kbit.tensor.packing import pack
from kbit.tensor.scales import round_scale, super_scale_for

__all__ = ["NestedEncoder"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]


class NestedEncoder(NearestEncoder):
    """Encodes one tensor piece by piece in nested codes with searched scales; used like `NearestEncoder`."""

    _tree: Tree
    _errors: Float32

    def _new_sample(self) -> VectorSample:
        return VectorSample(self._matrices, self._layout, 1)

    def _fit_levels(self) -> Float32:
        assert isinstance(self._sample, VectorSample)
        self._tree, self._errors = fit_tree(UnitGroups.of(self._sample.groups()), self.scheme.bits)
        return self._tree.levels(self.scheme.bits)

    def _codebook(self) -> Array:
        self._check_prepared()
        assert self.levels.size
        return self._tree.table

    def _matrix_super_scales(self) -> Float32:
        self._check_prepared()
        anchor = float(np.abs(self.levels).max())
        return super_scale_for((self._spread * LARGEST).astype(np.float32), self.scheme.scale_dtype, anchor)

    def encode_rows(self, row_begin: int, weights: Any, *, matrix: int = 0, importance: Array | None = None) -> list[Segment]:
        """Stored form of rows [row_begin, row_begin + n) of a matrix, as `NearestEncoder.encode_rows`."""
        rows = self._finite_rows(row_begin, weights, matrix)
        given = self._checked_importance(importance, rows.shape)
        unit = float(self._matrix_super_scales()[matrix]) if self.scheme.scale_dtype == "e4m3" else 0.0
        values, levels = as_float32(rows), self.levels
        groups = UnitGroups.of(VectorGroups.of(values, given, self._layout.group_size, 1))
        stored, scale, super_scale = self._scales(groups, len(rows), unit)
        spread = np.repeat(scale, self._layout.group_size, axis=1)[:, : values.shape[1]]
        codes = nearest_codes(values, spread, np.zeros_like(spread), levels)
        planes = pack(codes, self.scheme.bits, threads=self.threads)
        return self._segments(native.EncodedMatrix(planes, tiles_of_rows(stored), super_scale, None), matrix, row_begin)

    def _scales(self, groups: UnitGroups, rows: int, unit: float) -> tuple[Array, Float32, Float32 | None]:
        """(scales as stored, what they mean, super-scales of dq8) of the groups of `rows` rows, [rows, groups]."""
        kind = self.scheme.scale_dtype
        around = (groups.search(self._errors) * groups.extreme).reshape(rows, -1)
        super_scale: Float32 | None = None
        spread: Float32 | None = None
        if kind == "e4m3":
            spread = np.full((rows, 1), unit, np.float32)
        elif kind == "dq8":
            largest = np.abs(tiles_of_rows(around)).max(axis=(1, 2))
            super_scale = super_scale_for(largest, kind, float(np.abs(self.levels).max()))
            spread = np.repeat(super_scale, TILE_ROWS)[:rows, None]
        with np.errstate(over="ignore", under="ignore"):
            tried = [round_scale(around * part, spread, kind) for part in FINE]
        stored, value = (np.stack(part) for part in zip(*tried, strict=True))
        extreme = np.where(groups.extreme == 0, np.float32(1), groups.extreme)
        with np.errstate(over="ignore", under="ignore"):
            best = groups.best(self._errors, (value.reshape(len(FINE), -1) / extreme).astype(np.float32))
        chosen = best.reshape(1, rows, -1)
        return np.take_along_axis(stored, chosen, axis=0)[0], np.take_along_axis(value, chosen, axis=0)[0], super_scale
