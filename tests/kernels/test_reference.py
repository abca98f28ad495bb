"""The reference's own arithmetic; the products themselves are held against the native kernels in test_cpu.py."""

from fractions import Fraction

import numpy as np
import pytest

from kbit.kernels.reference import fused_multiply_add

ULP = 2.0**-23


@pytest.mark.parametrize(
    ("a", "b", "c", "expected"),
    [
        # a·b + c lies a hair beside the middle of two fp32 numbers; fp64 rounds it to the middle, and fp32 then to the even one.
        (2.0**-24 * (1 + ULP), 1 - ULP, 1 + ULP, 1 + ULP),
        (2.0**-24 * (1 + ULP), ULP - 1, -1 - ULP, -1 - ULP),
        (-(2.0**-24) * (1 + ULP), 1 - ULP, 1 + 2 * ULP, 1 + 2 * ULP),
        (1 + ULP, 1 - ULP, -1.0, -(2.0**-46)),  # the product is not rounded
        (1.0, 2.0**-24, 1.0, 1.0),  # a true middle goes to the even number
        (1.0, 2.0**-24, 1 + ULP, 1 + 2 * ULP),
    ],
)
def test_fused_multiply_add_rounds_once(a: float, b: float, c: float, expected: float) -> None:
    inputs = [np.array([value], np.float32) for value in (a, b, c)]
    assert [float(value[0]) for value in inputs] == [a, b, c]
    assert fused_multiply_add(*inputs).tolist() == [expected]


def test_fused_multiply_add_is_the_nearest_number() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2000)).astype(np.float32)
    c = (-(a.astype(np.float64) * b) * (1 + rng.integers(-3, 4, 2000) * 2.0 ** -rng.integers(8, 60, 2000))).astype(np.float32)
    for x, y, z, got in zip(a, b, c, fused_multiply_add(a, b, c), strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        miss = abs(exact - Fraction(float(got)))
        neighbours = np.nextafter(got, np.float32(np.inf)), np.nextafter(got, np.float32(-np.inf))
        assert all(miss <= abs(exact - Fraction(float(other))) for other in neighbours)


def test_fused_multiply_add_passes_on_what_is_not_finite() -> None:
    values = np.array([np.nan, np.inf, -np.inf], np.float32)
    one = np.ones(3, np.float32)
    np.testing.assert_array_equal(fused_multiply_add(values, one, one), values)
    np.testing.assert_array_equal(fused_multiply_add(one, one, values), values)
