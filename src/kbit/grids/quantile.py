"""Quantile levels: one for each of 2^k equally populated bins.

The sample is cut into 2^k bins of equal mass; a level is the middle of the two quantiles that bound its bin
(Dettmers and Zettlemoyer, "The case for 4-bit precision", 2022):

    level_i = ½ · (Q(i / 2^k) + Q((i + 1) / 2^k))      i = 0 … 2^k − 1,   then divided by the largest magnitude

Q is the sample's inverse distribution function: Q(0) the least value, Q(p) the least value that at least the share p does not
exceed. (The paper writes 2^k + 1 in the denominator, which leaves the topmost bin without a level; with 2^k every bin has one.)
Importance weighs the mass. A sample with many equal values has fewer levels: quantiles that fall together are one level; one
with at most 2^k distinct values has those as levels.
"""

import numpy as np

from kbit.core.scheme import Scheme
from kbit.grids.sample import Float64, WeightSample

__all__ = ["quantile_levels"]


def quantile_levels(scheme: Scheme, sample: WeightSample) -> Float64:
    """Levels of a ``quantile`` scheme, float64 of at most 2^k; the largest magnitude is 1 (0 for a sample of zeros)."""
    count = 2**scheme.bits
    if sample.values.size <= count:
        levels = sample.values
    else:
        cumulative = np.cumsum(sample.mass)
        wanted = np.arange(count + 1) / count * cumulative[-1]
        bounds = sample.values[np.searchsorted(cumulative, wanted)]
        levels = (bounds[:-1] + bounds[1:]) / 2
    return levels / (np.abs(levels).max() or 1.0)
