"""Widths of intervals: how often they hold what was not seen, where rows of a model miss together and where they do not."""

import numpy as np
import pytest

from kbit.study.rows import Row
from kbit.study.spread import Miss, Spread


def _misses(offsets: np.ndarray, noise: np.ndarray) -> list[Miss]:
    """A model for each offset, its rows about it."""
    return [
        Miss(Row("f", 10 ** (6 + model), "nearest", 4, 64, 4.25, "text", 512, 10.0), float(offset + one), 0.0)
        for model, (offset, rows) in enumerate(zip(offsets, noise, strict=True))
        for one in rows
    ]


@pytest.mark.parametrize("models", [3, 5, 9])
@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
def test_nine_in_ten_new_rows_lie_inside(models: int, shared: float) -> None:
    random, held = np.random.default_rng(models), []
    for _ in range(300):
        offsets = random.normal(0, 0.1 * shared, models + 1)
        noise = random.normal(0, 0.1 * np.sqrt(1 - shared**2), (models + 1, 8))
        spread = Spread.of(_misses(offsets[:-1], noise[:-1]))
        held += [abs(miss.error) <= spread.half_width(miss.row, 0.0) for miss in _misses(offsets[-1:], noise[-1:])]
    assert 0.85 <= np.mean(held) <= 0.98


def test_many_rows_of_few_models_are_few_errors() -> None:
    offsets, noise = np.array([0.04, -0.04, 0.04]), np.full((3, 200), 0.0)
    spread = Spread.of(_misses(offsets, noise))
    row = _misses(offsets, noise)[0].row
    assert spread.half_width(row, 0.0) == pytest.approx(2.3534 * 0.04, rel=1e-3)  # Student's t of 3 degrees of freedom, 95 %


def test_one_wild_row_widens_nothing() -> None:
    random = np.random.default_rng(0)
    offsets, noise = np.zeros(6), random.normal(0, 0.1, (6, 100))
    row = _misses(offsets, noise)[0].row
    before = Spread.of(_misses(offsets, noise)).half_width(row, 0.0)
    noise[2, 7] = 50.0
    assert Spread.of(_misses(offsets, noise)).half_width(row, 0.0) == pytest.approx(before, rel=0.05)
