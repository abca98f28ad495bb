"""The rule that recommends a k, against cases small enough to decide by hand."""

from collections.abc import Callable

import pytest

from kbit.cli.tradeoff import Row, original, recommend, series
from kbit.core.errors import ShapeError


def test_takes_the_smallest_k_within_the_limit_and_its_lowest_kl(make_row: Callable[..., Row], original_row: Row) -> None:
    rows = [original_row, make_row("int", 3, 0.1), make_row("int", 4, 0.008), make_row("nf", 4, 0.004), make_row("nf", 5, 0.001)]
    chosen = recommend(rows)
    assert chosen.row.scheme == "nf4:g64"
    assert chosen.reason.startswith("k = 4 is the smallest k")
    assert "int3:g64" in chosen.reason


def test_the_interval_decides_not_the_estimate(make_row: Callable[..., Row], original_row: Row) -> None:
    """A row that may be above the limit does not pass, however good its estimate."""
    rows = [original_row, make_row("nf", 4, 0.002, kl_high=0.02), make_row("nf", 5, 0.001)]
    assert recommend(rows).row.k == 5


def test_a_lower_kl_that_does_not_pass_is_not_taken(make_row: Callable[..., Row], original_row: Row) -> None:
    rows = [original_row, make_row("nf", 4, 0.001, kl_high=0.02), make_row("int", 4, 0.005)]
    assert recommend(rows).row.scheme == "int4:g64"


def test_says_so_when_nothing_passes(make_row: Callable[..., Row], original_row: Row) -> None:
    chosen = recommend([original_row, make_row("int", 2, 3.0), make_row("nf", 2, 2.0)])
    assert chosen.row.scheme == "nf2:g64"
    assert chosen.reason.startswith("no k keeps the KL divergence")


def test_the_limit_is_an_argument(demo_rows: list[Row]) -> None:
    assert recommend(demo_rows, limit=0.1).row.k < recommend(demo_rows, limit=0.001).row.k


def test_refuses_rows_without_one_original_and_one_encoded(make_row: Callable[..., Row], original_row: Row) -> None:
    for rows in ([], [make_row("nf", 4, 0.1)], [original_row, original_row], [original_row]):
        with pytest.raises(ShapeError, match="expected"):
            recommend(rows)


def test_series_are_ordered_and_leave_the_original_out(demo_rows: list[Row]) -> None:
    found = series(list(reversed(demo_rows)))
    assert list(found) == ["int", "float", "nf", "log", "kmeans"]
    assert all([row.k for row in rows] == list(range(2, 9)) for rows in found.values())
    assert original(demo_rows).k == 16
