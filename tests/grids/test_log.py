import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.grids.log import log_levels


def test_powers_of_two() -> None:
    levels = np.sort(log_levels(Scheme("log", 3, per_octave=1)))
    assert levels.tolist() == [-1, -0.5, -0.25, 0, 0.125, 0.25, 0.5, 1]


@pytest.mark.parametrize("per_octave", [1, 2, 3, 16])
@pytest.mark.parametrize("bits", range(2, 9))
def test_neighbours_have_a_constant_ratio(bits: int, per_octave: int) -> None:
    levels = np.sort(log_levels(Scheme("log", bits, per_octave=per_octave)))
    for side in (levels[levels > 0], -levels[levels < 0][::-1]):
        assert side[-1] == 1
        np.testing.assert_allclose(side[1:] / side[:-1], 2 ** (1 / per_octave), rtol=1e-12)
    assert 0 in levels


def test_subnormal_numbers_are_left_out() -> None:
    levels = log_levels(Scheme("log", 8, per_octave=1))
    assert levels.size == 255
    assert np.abs(levels[levels != 0]).min() == np.finfo(np.float32).tiny


def test_no_level_hangs_on_the_last_bit_of_the_power_function() -> None:
    """Rounding to float32 must not depend on the machine's mathematics library: no value lies near a rounding boundary."""
    for per_octave in range(1, 17):
        levels = log_levels(Scheme("log", 8, per_octave=per_octave))
        ulps = np.frexp(levels)[0] * 2.0**24
        assert np.abs(ulps - np.floor(ulps) - 0.5).min() > 1e-6
