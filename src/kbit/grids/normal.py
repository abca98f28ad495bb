"""NormalFloat-k: quantiles of the standard normal, with an exact zero.

Dettmers et al., "QLoRA" (2023), §3 and appendix E, stated for any k. With Φ⁻¹ the normal's inverse CDF and
δ = ½ · (1 / 2^(k+1) + 1 / (2^(k+1) − 2)) the mean of the two half-bin offsets of the sides (1 − δ = 0.9677083 at k = 4):

    positive   Φ⁻¹(p)    p = 2^(k−1) points from 1 − δ down towards ½, ½ left out
    zero       0
    negative   −Φ⁻¹(p)   p = 2^(k−1) − 1 points likewise

all divided by Φ⁻¹(1 − δ), so the levels span −1 … 1. The arithmetic follows the published one (seven digits of 1 − δ,
probabilities and division in float32), so k = 4 equals QLoRA's 16 values to the bit.

At k = 1 the recipe would give {0, 1}, which cannot tell signs apart: NF1 is {−1, +1}. NF2 is {−1, 0, 0.436, 1}.
"""

from statistics import NormalDist

import numpy as np

from kbit.core.scheme import Scheme
from kbit.grids.ramp import float32_ramp
from kbit.grids.sample import Float64

__all__ = ["normal_levels"]


def normal_levels(scheme: Scheme) -> Float64:
    """Levels of an ``nf`` scheme, float64 [2^k] holding float32 values."""
    if scheme.bits == 1:
        return np.array([-1.0, 1.0])
    half = 2 ** (scheme.bits - 1)
    negative, positive = _quantiles(half - 1, scheme.bits), _quantiles(half, scheme.bits)
    values = np.array([*(-value for value in negative), 0.0, *reversed(positive)], dtype=np.float32)
    levels: Float64 = (values / values.max()).astype(np.float64)
    return levels


def _quantiles(count: int, bits: int) -> list[float]:
    offset = (1 / 2 ** (bits + 1) + 1 / (2 ** (bits + 1) - 2)) / 2
    probabilities = float32_ramp(round(1 - offset, 7), 0.5, count + 1)[:-1]
    return [NormalDist().inv_cdf(float(probability)) for probability in probabilities]
