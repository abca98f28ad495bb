"""The rotation of `kbit.tensor.rotation` in float64, for weights that are changed once and then stay so.

Sums and differences are taken in one order by numpy alone, so that all machines give the same bytes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.core.rotation import rotation_block
from kbit.tensor.rotation import input_signs

__all__ = ["Floats", "turn"]

Floats = NDArray[np.floating[Any]]


def turn(x: Floats, period: int) -> NDArray[np.float64]:
    """X Tᵀ of rows [rows, cols], T the rotation of every stretch of `period` inputs as a matrix of `period` inputs rotates its own.

    `period` divides cols and can be rotated (`rotation_block`).
    """
    block = rotation_block(period)
    rows, cols = x.shape
    signed = np.asarray(x, np.float64).reshape(-1, period) * (input_signs(period) / np.sqrt(block))
    columns = np.ascontiguousarray(signed.reshape(-1, block).T)  # [block, rest]: each stage runs along memory
    half = 1
    while half < block:
        pairs = columns.reshape(block // (2 * half), 2, half, -1)
        difference = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = difference
        half *= 2
    return np.ascontiguousarray(columns.T).reshape(rows, cols)
