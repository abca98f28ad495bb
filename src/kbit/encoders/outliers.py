"""Weights that are kept in 16 bits: single ones, or whole columns, whose errors would cost the output most.

The cost of a weight is h_j · e², e its error when everything is encoded and h_j the mean square of its input (with a Hessian 1 / [H⁻¹]_jj
of the columns from j on, as in Dettmers et al., "SpQR", 2023). Columns: Dettmers and Zettlemoyer, "The case for 4-bit precision" (2023),
choose them by the variance of the layer before as a stand-in for the size of its outputs; here the outputs themselves have been seen.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.tensor.blocks import TILE_ROWS
from kbit.tensor.parts import CELL_COLUMNS

__all__ = ["as_half", "choose_columns", "choose_outliers", "column_parts", "outlier_parts"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]


def choose_outliers(cost: Array, count: int) -> Bools:
    """The `count` weights of the largest cost [rows, cols]; of each whole cell of 16 × 16 at most 255, as its count is a byte."""
    if count == 0:
        return np.zeros(cost.shape, np.bool_)
    rows, cols = cost.shape
    cost = cost.astype(np.float64)
    whole = cost[: rows // TILE_ROWS * TILE_ROWS, : cols // CELL_COLUMNS * CELL_COLUMNS]
    if whole.size:
        cells = whole.reshape(rows // TILE_ROWS, TILE_ROWS, -1, CELL_COLUMNS).transpose(0, 2, 1, 3).reshape(-1, TILE_ROWS * CELL_COLUMNS)
        tile, block = np.divmod(np.arange(len(cells)), cols // CELL_COLUMNS)
        row, col = np.divmod(cells.argmin(axis=1), CELL_COLUMNS)
        cost[tile * TILE_ROWS + row, block * CELL_COLUMNS + col] = -1
    chosen = np.zeros(cost.size, np.bool_)
    chosen[np.argsort(-cost.reshape(-1), kind="stable")[:count]] = True
    return chosen.reshape(cost.shape)


def choose_columns(cost: Array, count: int) -> npt.NDArray[np.int32]:
    """The `count` columns of the largest cost together, ascending."""
    return np.sort(np.argsort(-cost.sum(axis=0, dtype=np.float64), kind="stable")[:count]).astype(np.int32)


def outlier_parts(chosen: Bools, values: Float32) -> dict[str, Array]:
    """Stored parts of the weights that are `chosen`, with `values` [rows, cols] to add there."""
    rows, cols = chosen.shape
    tiles, blocks = -(-rows // TILE_ROWS), -(-cols // CELL_COLUMNS)
    padded = np.zeros((tiles * TILE_ROWS, blocks * CELL_COLUMNS), np.bool_)
    padded[:rows, :cols] = chosen
    cells = padded.reshape(tiles, TILE_ROWS, blocks, CELL_COLUMNS).transpose(0, 2, 3, 1)  # tile, block, column, row
    tile, block, column, row = np.nonzero(cells)
    return {
        "weight_outlier_count": cells.sum(axis=(2, 3)).astype(np.uint8),
        "weight_outlier_place": (column * TILE_ROWS + row).astype(np.uint8),
        "weight_outlier_value": as_half(values[tile * TILE_ROWS + row, block * CELL_COLUMNS + column]),
    }


def column_parts(index: npt.NDArray[np.int32], values: Float32) -> dict[str, Array]:
    """Stored parts of the columns `index`, with `values` [rows, cols] to add there."""
    rows = len(values)
    tiles = -(-rows // TILE_ROWS)
    padded = np.zeros((tiles * TILE_ROWS, index.size), np.float32)
    padded[:rows] = values[:, index]
    stored = np.ascontiguousarray(padded.reshape(tiles, TILE_ROWS, -1).transpose(0, 2, 1))
    return {"weight_column_index": index, "weight_column_value": as_half(stored)}


def as_half(values: Float32) -> npt.NDArray[np.uint16]:
    """Bits of the nearest finite fp16."""
    limit = np.float32(np.finfo(np.float16).max)
    return np.clip(values, -limit, limit).astype(np.float16).view(np.uint16)
