"""Ranges say what was expected and what came."""

import math

import pytest

from kbit.core.errors import SchemeError
from kbit.engine.checks import check_count, check_number


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, 1.1, True, "1", None])
def test_numbers_out_of_range(value: object) -> None:
    with pytest.raises(SchemeError, match=r"expected top_p to be a number in 0…1, got"):
        check_number("top_p", value, 0, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, 1.0, -1, 9, True, "3", None])
def test_counts_out_of_range(value: object) -> None:
    with pytest.raises(SchemeError, match=r"expected beams to be a whole number in 0…8, got"):
        check_count("beams", value, 0, 8)  # type: ignore[arg-type]


def test_ends_belong_to_the_range_unless_open() -> None:
    check_number("x", 0, 0, 1)
    check_number("x", 1.0, 0, 1)
    check_count("n", 0, 0)
    with pytest.raises(SchemeError, match="a number above 0, got 0"):
        check_number("x", 0, 0, open_low=True)
    with pytest.raises(SchemeError, match="a whole number of at least 1, got 0"):
        check_count("n", 0, 1)
    with pytest.raises(SchemeError, match="a number, finite, got inf"):
        check_number("x", math.inf, -math.inf)
