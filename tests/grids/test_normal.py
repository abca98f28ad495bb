from statistics import NormalDist

import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.grids.normal import normal_levels

#: QLoRA's published values (Dettmers et al., 2023, appendix E)
NF4 = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]


def test_nf4_equals_the_published_values_to_the_bit() -> None:
    assert normal_levels(Scheme("nf", 4)).tolist() == NF4


def test_one_bit_tells_signs_apart() -> None:
    assert normal_levels(Scheme("nf", 1)).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_evenly_spaced_quantiles(bits: int) -> None:
    levels = normal_levels(Scheme("nf", bits))
    half = 2 ** (bits - 1)
    assert levels[half - 1] == 0
    assert (levels[0], levels[-1]) == (-1, 1)
    top = NormalDist().inv_cdf(1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2)
    for side, count in ((levels[half - 1 :], half), (-levels[half - 1 :: -1], half - 1)):
        probabilities = [NormalDist().cdf(float(level) * top) for level in side]
        np.testing.assert_allclose(np.diff(probabilities), (probabilities[-1] - 0.5) / count, rtol=1e-4)


def test_quantile_function_agrees_with_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    levels = normal_levels(Scheme("nf", 8))
    offset = (1 / 512 + 1 / 510) / 2
    positive = special.ndtri(np.linspace(1 - offset, 0.5, 129)[:-1])
    np.testing.assert_allclose(levels[128:], positive[::-1] / positive[0], rtol=1e-5)


def test_no_level_hangs_on_the_last_bit_of_the_quantile_function() -> None:
    """The float32 rounding of Φ⁻¹ must be the same with any mathematics library: nothing lies near a rounding boundary."""
    from kbit.grids.normal import _quantiles

    for bits in range(2, 9):
        for count in (2 ** (bits - 1), 2 ** (bits - 1) - 1):
            ulps = np.frexp(np.array(_quantiles(count, bits)))[0] * 2.0**24
            assert np.abs(ulps - np.floor(ulps) - 0.5).min() > 1e-6
