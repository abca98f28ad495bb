import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.grids.dynamic import dynamic_levels

#: a few of the 256 values of the signed 8-bit map that bitsandbytes publishes, by place in ascending order
PUBLISHED = {
    0: -0.992968738079071,
    64: -0.09859374910593033,
    120: -8.874999912222847e-05,
    126: -5.500000384017767e-07,
    127: 0.0,
    128: 5.500000384017767e-07,
    129: 3.250000190746505e-06,
    192: 0.12109375,
    254: 0.992968738079071,
    255: 1.0,
}


def levels_of(bits: int) -> np.ndarray:
    return np.sort(dynamic_levels(Scheme("dynamic", bits)))


def test_8_bits_hold_the_published_values() -> None:
    levels = levels_of(8)
    assert {place: float(levels[place]) for place in PUBLISHED} == PUBLISHED


def test_8_bits_equal_the_map_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    published = functional.create_dynamic_map(signed=True, max_exponent_bits=7, total_bits=8).numpy()
    np.testing.assert_array_max_ulp(levels_of(8).astype(np.float32), published, maxulp=1)  # torch fuses or not, by CPU


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_decade_holds_midpoints_of_even_intervals(bits: int) -> None:
    levels = levels_of(bits)
    assert levels.size == 2**bits
    expected = [0.0, 1.0]
    for decade in range(bits - 1):
        for step in range(2**decade):
            middle = (0.1 + 0.9 * (step + 0.5) / 2**decade) * 10.0 ** (decade - bits + 2)
            expected += [middle, -middle]
    np.testing.assert_allclose(levels, sorted(expected), rtol=3e-7)
