"""Which weights share a scale, and where that scale is stored.

A matrix [rows, cols] is cut into groups of `group_size` consecutive columns of one row (the last may be shorter) and into tiles
of 16 rows. What a group has one of (scale, zero point) is stored as [tiles, groups, 16]; rows that only pad the last tile hold 0.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kbit.core.errors import ShapeError
from kbit.core.scheme import Scheme
from kbit.native.encoding import BLOCK_INPUTS, TILE_ROWS

__all__ = ["BLOCK_INPUTS", "TILE_ROWS", "BlockLayout", "code_cols", "expand_groups", "logical_shape", "rows_of_tiles", "tiles_of_rows"]

Array = npt.NDArray[Any]


def logical_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(matrices, rows, cols) of a matrix [rows, cols] or a stack [matrices, rows, cols].

    Raises:
        ShapeError: another number of dimensions, or a size below 1.
    """
    sizes = tuple(int(size) for size in shape)
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise ShapeError(f"expected [rows, cols] or [matrices, rows, cols], each at least 1, got {list(sizes)}")
    return (1, *sizes) if len(sizes) == 2 else (sizes[0], sizes[1], sizes[2])


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """Sizes of one matrix [rows, cols] in blocks. `group_size` is resolved: the number of columns where a row shares one scale."""

    rows: int
    cols: int
    group_size: int

    @classmethod
    def of(cls, scheme: Scheme, rows: int, cols: int) -> Self:
        """Layout of a matrix under a scheme.

        Raises:
            ShapeError: a size below 1, or a group longer than the row (`Scheme.for_row` says what it is recorded as).
        """
        logical_shape((rows, cols))
        if scheme.group_size > cols:
            raise ShapeError(f"{scheme.text}: expected a group size of at most the {cols} columns of a row, or -1, got {scheme.group_size}")
        return cls(rows, cols, cols if scheme.group_size == -1 else scheme.group_size)

    @property
    def tiles(self) -> int:
        """Tiles of 16 rows."""
        return -(-self.rows // TILE_ROWS)

    @property
    def kblocks(self) -> int:
        """Blocks of 32 columns."""
        return -(-self.cols // BLOCK_INPUTS)

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return -(-self.cols // self.group_size)

    @property
    def scale_shape(self) -> tuple[int, int, int]:
        """Shape of what a group has one of."""
        return self.tiles, self.groups, TILE_ROWS


def code_cols(scheme: Scheme, cols: int) -> int:
    """Codes of a row of `cols` weights: one each, or one for `dims` of them, the last one for what is left."""
    return -(-cols // scheme.dims)


def rows_of_tiles(tiled: Array, rows: int) -> Array:
    """[tiles, groups, 16] as stored → [rows, groups]."""
    return tiled.transpose(0, 2, 1).reshape(-1, tiled.shape[1])[:rows]


def tiles_of_rows(values: Array) -> Array:
    """[rows, groups] → [tiles, groups, 16] as stored, padded with 0."""
    rows, groups = values.shape
    tiles = -(-rows // TILE_ROWS)
    padded = np.zeros((tiles * TILE_ROWS, groups), values.dtype)
    padded[:rows] = values
    return np.ascontiguousarray(padded.reshape(tiles, TILE_ROWS, groups).transpose(0, 2, 1))


def expand_groups(tiled: Array, scheme: Scheme, shape: tuple[int, int]) -> Array:
    """[tiles, groups, 16] as stored → one value an element, [rows, cols]."""
    layout = BlockLayout.of(scheme, *shape)
    if tiled.shape != layout.scale_shape:
        raise ShapeError(f"expected {list(layout.scale_shape)} for {shape[0]} x {shape[1]} at {scheme.text}, got {list(tiled.shape)}")
    return rows_of_tiles(tiled, layout.rows)[:, np.arange(layout.cols) // layout.group_size]
