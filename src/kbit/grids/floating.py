"""Floating-point levels: one sign bit, E exponent bits, M = k − 1 − E mantissa bits, subnormals.

    exponent field e, mantissa field m:   e = 0:  2^(1 − bias) · (m / 2^M)          bias = 2^(E−1) − 1
                                          e > 0:  2^(e − bias) · (1 + m / 2^M)

−0 is +0, so a grid has at most 2^k − 1 levels. Every code is a finite number, as in the small types of the OCP MX specification
v1.0 (E2M1 reaches 6, E2M3 7.5, E3M2 28), but for the two types that OCP gives special codes, which hold no level here:
E4M3 (S.1111.111 is NaN; reaches 448) and E5M2 (exponent 31 is Inf and NaN; reaches 57344).

E = 1 is the same formula with bias 0: subnormals and the one binade above them have the same spacing 2^(1−M), so the levels are
evenly spaced in ±(4 − 2^(1−M)): a linear grid with a symmetric range and a single zero. (The other candidate, bias 1, would
only halve every level, which the scale undoes.)

M = 0 holds the signed powers of two and zero; e = 0 is then zero alone.
"""

import numpy as np

from kbit.core.scheme import Scheme
from kbit.grids.sample import Float64

__all__ = ["float_levels"]

#: (exponent bits, mantissa bits) → positive codes that are not numbers, counted from the top
_SPECIAL_CODES = {(4, 3): 1, (5, 2): 4}


def float_levels(scheme: Scheme) -> Float64:
    """Levels of a ``float`` scheme, float64; both signs of every magnitude."""
    assert scheme.exponent_bits is not None, "Scheme fills exponent_bits of a float grid"
    magnitudes = _magnitudes(scheme.exponent_bits, scheme.bits - 1 - scheme.exponent_bits)
    return np.concatenate([-magnitudes, magnitudes])


def _magnitudes(exponent_bits: int, mantissa_bits: int) -> Float64:
    codes = np.arange(2 ** (exponent_bits + mantissa_bits) - _SPECIAL_CODES.get((exponent_bits, mantissa_bits), 0))
    exponent, mantissa = codes >> mantissa_bits, codes & (2**mantissa_bits - 1)
    bias = 2 ** (exponent_bits - 1) - 1
    significand = mantissa / 2.0**mantissa_bits + (exponent > 0)
    magnitudes: Float64 = np.ldexp(significand, np.maximum(exponent, 1) - bias)
    return magnitudes
