"""Levels that the states of a trellis choose among: sixty-four quantiles of the normal distribution, whatever the bits of a step.

    level_i = round(127 · Φ⁻¹((i + ½) / 64) / Φ⁻¹(63½ / 64))

They are integers within ±127, so that int8 kernels hold them without loss.
"""

from statistics import NormalDist

import numpy as np

from kbit.core.scheme import Scheme
from kbit.grids.sample import Float64

__all__ = ["TRELLIS_LEVELS", "trellis_levels"]

#: levels of every trellis
TRELLIS_LEVELS = 64
_LARGEST = 127


def trellis_levels(scheme: Scheme) -> Float64:
    """Levels of a trellis, float64 [64] holding integers."""
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / TRELLIS_LEVELS) for i in range(TRELLIS_LEVELS // 2, TRELLIS_LEVELS)])
    positive = np.rint(_LARGEST * quantiles / quantiles[-1])
    levels: Float64 = np.concatenate([-positive[::-1], positive])
    return levels
