"""Rotation of rows in native code: what comes in is checked here, before pointers are taken."""

import numpy as np
import numpy.typing as npt

from kbit.core.errors import DTypeError, ShapeError
from kbit.core.rotation import MIN_BLOCK
from kbit.native import _kbit

__all__ = ["rotate_rows"]

Floats = npt.NDArray[np.float32]


def rotate_rows(x: Floats, block: int, *, back: bool = False, threads: int = 0) -> Floats:
    """Rows of `x` [rows, cols] rotated in blocks, or rotated `back`; a new array, the same bytes on every instruction set.

    Raises:
        DTypeError: not float32.
        ShapeError: not a matrix, or a block that is no power of two from 16 on that divides its columns.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        raise DTypeError(f"expected float32 rows, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim != 2:
        raise ShapeError(f"expected rows [rows, cols], got shape {list(x.shape)}")
    if block < MIN_BLOCK or block & (block - 1) or x.shape[1] % block:
        raise ShapeError(f"expected a power of two from {MIN_BLOCK} on that divides {x.shape[1]} columns, got blocks of {block}")
    out = np.empty(x.shape, np.float32)
    if x.size:
        _kbit.rotate_rows(np.ascontiguousarray(x), block, back, out, threads)
    return out
