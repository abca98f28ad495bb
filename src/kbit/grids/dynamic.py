"""Dynamic exponent: a unary exponent in tens, then as many fraction bits as the exponent left.

Dettmers, "8-bit Approximations for Parallelism in Deep Learning" (2016); the signed map of Dettmers et al., "8-bit Optimizers via
Block-wise Quantization" (2022), stated for any k >= 2:

    decade i = 0 … k − 2:   ± 10^(i − (k − 2)) · midpoints of 2^i equal intervals of [0.1, 1]
    and 0 and +1

Small numbers get exponent range, large ones precision. k = 8 equals the map that bitsandbytes publishes (signed, 7 exponent bits)
to the bit: the arithmetic is float32 as there.
"""

import numpy as np

from kbit.core.scheme import Scheme
from kbit.grids.ramp import float32_ramp
from kbit.grids.sample import Float64

__all__ = ["dynamic_levels"]


def dynamic_levels(scheme: Scheme) -> Float64:
    """Levels of a ``dynamic`` scheme, float64 [2^k] holding float32 values; the largest is 1."""
    decades = scheme.bits - 1
    magnitudes = np.concatenate([_decade(2**index, 10.0 ** (index - decades + 1)) for index in range(decades)])
    return np.concatenate([-magnitudes, [0.0], magnitudes, [1.0]])


def _decade(count: int, unit: float) -> Float64:
    bounds = float32_ramp(0.1, 1.0, count + 1)
    midpoints = (bounds[:-1] + bounds[1:]) / np.float32(2)
    return (np.float32(unit) * midpoints).astype(np.float64)
