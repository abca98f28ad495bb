"""a·b + c in fp32, rounded once, in plain numpy."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["fused_multiply_add"]

FloatMatrix = NDArray[np.float32]


def fused_multiply_add(a: FloatMatrix, b: FloatMatrix, c: FloatMatrix) -> FloatMatrix:
    """fp32 a·b + c, rounded once.

    In fp64 the product is exact and the sum is not. Rounded to odd (Boldo and Melquiond, 2008: an inexact sum whose last bit is even
    moves to its neighbour on the side of the error) it can be rounded again to fp32 without rounding twice.
    """
    product, addend = np.broadcast_arrays(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))
    with np.errstate(invalid="ignore"):
        total = product + addend
        virtual = total - product
        error = (product - (total - virtual)) + (addend - virtual)  # Knuth's two-sum: exact
        even = (total.view(np.int64) & 1) == 0
        to_odd = np.isfinite(total) & (error != 0) & even
        rounded: FloatMatrix = np.where(to_odd, np.nextafter(total, np.copysign(np.inf, error)), total).astype(np.float32)
    return rounded
