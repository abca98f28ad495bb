"""Linear levels: integers.

symmetric    −2^(k−1) … 2^(k−1)−1   two's complement; k = 1 is {−1, +1}, since {−1, 0} could not tell signs apart
asymmetric    0 … 2^k−1             the zero point of each group, an integer in the same units, is subtracted by the reader

Scales are signed, so the symmetric grid's odd level −2^(k−1) is not wasted: the element of largest magnitude lands on it,
whichever its sign.
"""

import numpy as np

from kbit.core.scheme import Scheme
from kbit.grids.sample import Float64

__all__ = ["linear_levels"]


def linear_levels(scheme: Scheme) -> Float64:
    """Levels of an ``int`` scheme, float64 [2^k], ascending."""
    if not scheme.symmetric:
        return np.arange(2.0**scheme.bits)
    if scheme.bits == 1:
        return np.array([-1.0, 1.0])
    half = 2.0 ** (scheme.bits - 1)
    return np.arange(-half, half)
