"""Parts beside the packed matrix as they are stored (FORMAT.md): their shapes, what they add to it, and what no encoder writes in them.

    weight_outlier_count  uint8 [tiles, ⌈cols/16⌉]   outliers of each cell of 16 rows × 16 columns
    weight_outlier_place  uint8 [n]                  16 · column + row inside the cell, ascending; cells one after another
    weight_outlier_value  fp16 [n]                   added to what the codes say there
    weight_column_index   int32 [n]                  columns in 16 bits, ascending
    weight_column_value   fp16 [tiles, n, 16]        added to what the codes say there
    weight_lowrank_left   int8 [tiles, rank, 16]     U
    weight_lowrank_right  int8 [rank, cols]          V
    weight_lowrank_scale  float32 [rank]             W += U · diag(scale) · V

A stack of matrices has a leading dimension in each.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import FormatError, NumericsError
from kbit.core.scheme import Scheme
from kbit.tensor.blocks import TILE_ROWS, BlockLayout, rows_of_tiles

__all__ = ["CELL_COLUMNS", "PART_SUFFIXES", "add_parts", "outlier_places", "part_label", "side_shapes", "validate_parts"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Shapes = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

CELL_COLUMNS = 16
#: names that the parts of this file may have
PART_SUFFIXES = (
    "weight_outlier_count",
    "weight_outlier_place",
    "weight_outlier_value",
    "weight_column_index",
    "weight_column_value",
    "weight_lowrank_left",
    "weight_lowrank_right",
    "weight_lowrank_scale",
)


def part_label(name: str) -> str:
    """What a part beside the codes counts as in a breakdown of bits."""
    return {"mask": "mask", "outlier": "outliers", "column": "outliers", "lowrank": "low_rank"}[name.split("_")[1]]


def side_shapes(scheme: Scheme, rows: int, cols: int, stack: tuple[int, ...]) -> Shapes:
    """Parts of matrices [rows, cols]: name → (shape, dtype); `stack` is what comes before each shape."""
    spec, tiles = scheme.spec, BlockLayout.of(scheme, rows, cols).tiles
    shapes: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {}
    if outliers := spec.outliers(rows, cols):
        shapes["weight_outlier_count"] = ((tiles, -(-cols // CELL_COLUMNS)), np.uint8)
        shapes["weight_outlier_place"] = ((outliers,), np.uint8)
        shapes["weight_outlier_value"] = ((outliers,), np.uint16)
    if columns := spec.columns(cols):
        shapes["weight_column_index"] = ((columns,), np.int32)
        shapes["weight_column_value"] = ((tiles, columns, TILE_ROWS), np.uint16)
    if rank := spec.ranks(rows, cols):
        shapes["weight_lowrank_left"] = ((tiles, rank, TILE_ROWS), np.int8)
        shapes["weight_lowrank_right"] = ((rank, cols), np.int8)
        shapes["weight_lowrank_scale"] = ((rank,), np.float32)
    return {name: (stack + shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}


def outlier_places(count: Array, place: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """(row, column) of each outlier of one matrix, in stored order; places may lie in the padding."""
    cell = np.repeat(np.arange(count.size), count.reshape(-1))
    tile, block = np.divmod(cell, count.shape[1])
    column, row = np.divmod(place.astype(np.intp), TILE_ROWS)
    return tile * TILE_ROWS + row, block * CELL_COLUMNS + column


def add_parts(parts: Mapping[str, Array], out: Float32, row_begin: int = 0) -> None:
    """Add the parts of one matrix to its rows [row_begin, row_begin + len(out)); row_begin is a multiple of 16.

    float32, in the order columns, low rank (rank by rank), outliers; every product is rounded before it is added.
    """
    rows, tiles = slice(row_begin, row_begin + len(out)), slice(row_begin // TILE_ROWS, -(-(row_begin + len(out)) // TILE_ROWS))
    if "weight_column_index" in parts:
        values = rows_of_tiles(parts["weight_column_value"][tiles].view(np.float16), len(out)).astype(np.float32)
        out[:, parts["weight_column_index"]] += values
    if "weight_lowrank_left" in parts:
        left = rows_of_tiles(parts["weight_lowrank_left"][tiles], len(out)).astype(np.float32) * parts["weight_lowrank_scale"]
        for column, line in zip(left.T, parts["weight_lowrank_right"].astype(np.float32), strict=True):
            out += column[:, None] * line
    if "weight_outlier_count" in parts:
        row, col = outlier_places(parts["weight_outlier_count"], parts["weight_outlier_place"])
        here = (row >= rows.start) & (row < rows.stop)
        out[row[here] - row_begin, col[here]] += parts["weight_outlier_value"][here].view(np.float16).astype(np.float32)


def validate_parts(parts: Mapping[str, Array], rows: int, cols: int) -> None:
    """Refuse contents of one matrix's parts that no encoder writes.

    Raises:
        FormatError: counts that do not add up, places or columns that do not ascend or lie outside, padding that is not 0.
        NumericsError: a value or scale that is not finite.
    """
    if "weight_outlier_count" in parts:
        _validate_outliers(parts["weight_outlier_count"], parts["weight_outlier_place"], rows, cols)
    if "weight_column_index" in parts:
        index = parts["weight_column_index"]
        if index[0] < 0 or index[-1] >= cols or (np.diff(index) <= 0).any():
            raise FormatError(f"expected columns in 16 bits that ascend within 0…{cols - 1}, got others")
    for name in ("weight_outlier_value", "weight_column_value"):
        if name in parts and not np.isfinite(parts[name].view(np.float16)).all():
            raise NumericsError(f"expected finite numbers in {name}, got NaN or Inf")
    if "weight_lowrank_scale" in parts and not np.isfinite(parts["weight_lowrank_scale"]).all():
        raise NumericsError("expected finite numbers in weight_lowrank_scale, got NaN or Inf")
    used = rows - (-(-rows // TILE_ROWS) - 1) * TILE_ROWS
    for name in ("weight_column_value", "weight_lowrank_left"):
        if name in parts and parts[name][-1, :, used:].any():
            raise FormatError(f"expected 0 in the rows that pad the last tile of {name}")


def _validate_outliers(count: Array, place: Array, rows: int, cols: int) -> None:
    if int(count.sum(dtype=np.int64)) != place.size:
        raise FormatError(f"expected outlier counts that add up to {place.size}, got {int(count.sum(dtype=np.int64))}")
    row, col = outlier_places(count, place)
    if (row >= rows).any() or (col >= cols).any():
        raise FormatError("expected outliers inside the matrix, got one in its padding")
    cell = np.repeat(np.arange(count.size), count.reshape(-1))
    if ((np.diff(cell) == 0) & (np.diff(place.astype(np.int64)) <= 0)).any():
        raise FormatError("expected outliers of a cell in ascending places, each once")
