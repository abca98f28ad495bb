"""Parts beside the packed codes: handed to the native matrix, and their products in plain numpy, the oracle.

    y[r] += Σ_c column[r, c]·x[index[c]] + Σ_k U[r, k]·latent[k] + Σ_e outlier[r, e]·x[col(e)]      latent[k] = scale[k]·Σ_j V[k, j]·x[j]

in fp32 in this order, from 0, each product fused with the sum; V·x runs in sixteen lanes that are then added as a tree. The sum is added to
the packed product. It is the same in both modes, since the activations are not quantized for it.
"""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kbit.kernels.fused import fused_multiply_add
from kbit.native import _kbit
from kbit.tensor.blocks import rows_of_tiles
from kbit.tensor.parts import PART_SUFFIXES, outlier_places

__all__ = ["attach_parts", "has_parts", "parts_product", "project"]

FloatMatrix = NDArray[np.float32]
Parts = Mapping[str, NDArray[Any]]

_LANES = 16


def has_parts(parts: Parts) -> bool:
    """Whether anything is added to the packed product."""
    return any(name in PART_SUFFIXES for name in parts)


def attach_parts(native: _kbit.PackedMatrix, parts: Parts) -> None:
    """Give a native matrix its parts, whose arrays it keeps alive."""
    if "weight_outlier_count" in parts:
        native.set_outliers(*(_bytes(parts[f"weight_outlier_{name}"]) for name in ("count", "place", "value")))
    if "weight_column_index" in parts:
        native.set_columns(*(_bytes(parts[f"weight_column_{name}"]) for name in ("index", "value")))
    if "weight_lowrank_left" in parts:
        native.set_low_rank(*(_bytes(parts[f"weight_lowrank_{name}"]) for name in ("left", "right", "scale")))


def project(right: NDArray[np.int8], scale: FloatMatrix, x: FloatMatrix) -> FloatMatrix:
    """Scale · V·x for x [tokens, cols]: [tokens, rank]."""
    padding = ((0, 0), (0, -x.shape[1] % _LANES))
    lines, rows = np.pad(right.astype(np.float32), padding), np.pad(x, padding)
    total = np.zeros((len(x), len(lines), _LANES), np.float32)
    for begin in range(0, lines.shape[1], _LANES):
        total = fused_multiply_add(lines[None, :, begin : begin + _LANES], rows[:, None, begin : begin + _LANES], total)
    for width in (8, 4, 2, 1):
        total = total[..., :width] + total[..., width : 2 * width]
    return np.asarray(scale * total[..., 0], np.float32)


def parts_product(parts: Parts, x: FloatMatrix, rows: int) -> FloatMatrix:
    """What the parts of a matrix with `rows` rows make of x [tokens, cols]: [tokens, rows]."""
    total = np.zeros((len(x), rows), np.float32)
    if "weight_column_index" in parts:
        values = rows_of_tiles(parts["weight_column_value"].view(np.float16), rows).astype(np.float32)
        for place, col in enumerate(parts["weight_column_index"]):
            total = fused_multiply_add(values[None, :, place], x[:, col, None], total)
    if "weight_lowrank_left" in parts:
        left = rows_of_tiles(parts["weight_lowrank_left"], rows).astype(np.float32)
        latent = project(parts["weight_lowrank_right"], parts["weight_lowrank_scale"], x)
        for k in range(left.shape[1]):
            total = fused_multiply_add(left[None, :, k], latent[:, k, None], total)
    if "weight_outlier_count" in parts:
        places = zip(*outlier_places(parts["weight_outlier_count"], parts["weight_outlier_place"]), strict=True)
        values = parts["weight_outlier_value"].view(np.float16).astype(np.float32)
        for (row, col), value in zip(places, values, strict=True):
            total[:, row] = fused_multiply_add(np.full(len(x), value), x[:, col], total[:, row])
    return total


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return cast("NDArray[np.uint8]", np.ascontiguousarray(array).reshape(-1).view(np.uint8))
