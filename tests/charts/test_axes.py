import pytest

from kbit.charts.axes import widened


def test_a_range_that_shows_something_stays():
    assert widened([3.75, 8.25, 5.0]) == (3.75, 8.25)
    assert widened([0.0, 0.0]) == (0.0, 0.0)


def test_nearly_equal_values_lie_in_the_middle():
    low, high = widened([5.25, 5.254])
    assert high - low == pytest.approx(0.2 * 5.254)
    assert (low + high) / 2 == pytest.approx(5.252)
