"""Nearest encoding with a vector grid, a piece of rows at a time: `NearestEncoder` for codes that stand for several weights.

The codebook of ``vq`` is fitted to a sample of the tensor (`kbit.encoders.vectors`), that of ``nvq`` follows from the scheme. Without
``mse`` a group's scale is the root of its mean square. Scales are rounded as stored (`kbit.tensor.scales`) before codes are chosen.
"""

from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.scheme import Scheme
from kbit.encoders.inputs import Importance, as_float32
from kbit.encoders.nearest import NearestEncoder, Segment
from kbit.encoders.vectors import VectorGroups, best_scales, fit_codebook
from kbit.native import encoding as native
from kbit.tensor.blocks import TILE_ROWS, BlockLayout, tiles_of_rows
from kbit.tensor.packing import pack
from kbit.tensor.quantized import stored_vectors
from kbit.tensor.scales import round_scale, super_scale_for

__all__ = ["SAMPLE_SIZE", "VectorEncoder", "encode_groups"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

#: weights that a codebook is fitted to
SAMPLE_SIZE = 1 << 18
#: e4m3: the scale that its largest value stands for, in parts of the tensor's largest weight; scales are below it for any codebook in use
_LARGEST_SCALE = 1.25


class VectorEncoder(NearestEncoder):
    """Encodes one tensor piece by piece with a vector grid; used like `NearestEncoder`; its levels are a codebook [2^bits, dims]."""

    def _new_sample(self) -> "VectorSample":
        return VectorSample(self._matrices, self._layout, self.scheme.dims)

    def _fit_levels(self) -> Float32:
        assert isinstance(self._sample, VectorSample)
        return stored_vectors(fit_codebook(self._sample.groups(), self.scheme.bits)).view(np.float16).astype(np.float32)

    def encode_rows(self, row_begin: int, weights: Any, *, matrix: int = 0, importance: Array | None = None) -> list[Segment]:
        """Stored form of rows [row_begin, row_begin + n) of a matrix, as `NearestEncoder.encode_rows`."""
        rows = self._finite_rows(row_begin, weights, matrix)
        given = self._checked_importance(importance, rows.shape)
        unit = float(self._matrix_super_scales()[matrix]) if self.scheme.scale_dtype == "e4m3" else 0.0
        groups = VectorGroups.of(as_float32(rows), given, self._layout.group_size, self.scheme.dims)
        codes, encoded = encode_groups(groups, self.scheme, self.levels, len(rows), unit)
        codes = codes.reshape(len(rows), -1)[:, : self._code_cols]
        encoded = native.EncodedMatrix(
            pack(np.ascontiguousarray(codes), self.scheme.bits, threads=self.threads), encoded.scale, encoded.super_scale, None
        )
        return self._segments(encoded, matrix, row_begin)

    def _matrix_super_scales(self) -> Float32:
        self._check_prepared()
        return super_scale_for(
            (self._spread * _LARGEST_SCALE).astype(np.float32), self.scheme.scale_dtype, float(np.abs(self.levels).max())
        )


def encode_groups(
    groups: VectorGroups, scheme: Scheme, codebook: Float32, rows: int, matrix_super_scale: float
) -> tuple[npt.NDArray[np.uint8], native.EncodedMatrix]:
    """(codes [groups, vectors], scales as stored) of the groups of `rows` rows, row by row; the result's planes are left empty."""
    scale = best_scales(groups, codebook, search=scheme.scale_search == "mse").reshape(rows, -1)
    super_scale: Float32 | None = None
    spread: Float32 | None = None
    if scheme.scale_dtype == "e4m3":
        spread = np.full((rows, 1), matrix_super_scale, np.float32)
    elif scheme.scale_dtype == "dq8":
        largest = np.abs(tiles_of_rows(scale)).max(axis=(1, 2))
        super_scale = super_scale_for(largest, scheme.scale_dtype, float(np.abs(codebook).max()))
        spread = np.repeat(super_scale, TILE_ROWS)[:rows, None]
    stored, value = round_scale(scale, spread, scheme.scale_dtype)
    codes = groups.nearest(value.reshape(-1), codebook)
    return codes, native.EncodedMatrix(np.empty(0, np.uint8), tiles_of_rows(stored), super_scale, None)


class VectorSample:
    """Some groups of the tensor, as `kbit.encoders.sample.LevelSample` chooses them, but as they are."""

    def __init__(self, matrices: int, layout: BlockLayout, dims: int) -> None:
        self._layout, self._dims = layout, dims
        self._stride = -(-matrices * layout.rows * layout.cols // SAMPLE_SIZE)
        while gcd(self._stride, layout.groups) != 1:
            self._stride += 1
        self._taken: list[tuple[Float32, Float32]] = []

    def add(self, matrix: int, row_begin: int, weights: Array, importance: Importance | None) -> None:
        """Take what is sampled of rows [row_begin, row_begin + n) of a matrix; importance is [cols], [n, cols] or None."""
        layout = self._layout
        first = (matrix * layout.rows + row_begin) * layout.groups
        chosen = np.arange(-(-first // self._stride) * self._stride, first + len(weights) * layout.groups, self._stride) - first
        if not chosen.size:
            return
        row = chosen // layout.groups
        every = VectorGroups.of(
            as_float32(weights[row]),
            importance if importance is None or importance.ndim == 1 else importance[row],
            layout.group_size,
            self._dims,
        )
        place = np.arange(len(row)) * layout.groups + chosen % layout.groups
        self._taken.append((every.weights[place], every.importance[place]))

    def groups(self) -> VectorGroups:
        """What was taken."""
        return VectorGroups(np.concatenate([one for one, _ in self._taken]), np.concatenate([one for _, one in self._taken]))
