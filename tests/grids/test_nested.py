import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kbit.core.scheme import Scheme
from kbit.grids import levels_for
from kbit.grids.nested import coarse_levels, nested_levels
from kbit.grids.sample import WeightSample

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def gaussian(seed: int) -> np.ndarray:
    """Blocks of 64, each divided by its signed element of largest magnitude."""
    blocks = np.random.default_rng(seed).standard_normal((4000, 64)).astype(np.float32)
    return blocks / np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)


def squared_error(weights: np.ndarray, levels: np.ndarray, codes: np.ndarray) -> float:
    return float(((weights - levels[codes].astype(np.float64)) ** 2).sum())


def test_the_first_bits_of_a_code_lose_little_more_than_a_grid_of_their_own() -> None:
    weights = gaussian(0).ravel()
    scheme = Scheme.parse("nested8")
    levels = levels_for(scheme, weights)
    table = coarse_levels(levels, 8, WeightSample.of(weights))
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, weights)
    for bits in range(2, 8):
        alone = levels_for(Scheme.parse(f"kmeans{bits}"), weights)
        least = squared_error(weights, alone, np.searchsorted((alone[1:] + alone[:-1]) / 2, weights))
        nested = squared_error(weights, table[1 << bits : 2 << bits], codes >> (8 - bits))
        assert nested < 1.06 * least, bits


def test_levels_of_a_node_are_the_mean_of_what_lies_below_it() -> None:
    weights = gaussian(1).ravel()
    levels = levels_for(Scheme.parse("nested5"), weights)
    table = coarse_levels(levels, 5, WeightSample.of(weights))
    codes = np.searchsorted((levels[1:].astype(np.float64) + levels[:-1]) / 2, weights / np.abs(weights).max())
    for bits in range(5):
        for node in range(1 << bits):
            inside = weights[codes >> (5 - bits) == node].astype(np.float64)
            assert table[(1 << bits) + node] == pytest.approx(inside.mean(), abs=1e-5)
    assert table[0] == 0


def test_importance_pulls_levels() -> None:
    weights = gaussian(2).ravel()
    positive = (weights > 0).astype(np.float32) + 1e-3
    plain, pulled = (levels_for(Scheme.parse("nested4"), weights, importance) for importance in (None, positive))
    assert (pulled > 0).sum() > (plain > 0).sum()


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 40), elements=FINITE), st.integers(2, 8))
def test_any_finite_sample_has_all_levels(weights: np.ndarray, bits: int) -> None:
    sample = WeightSample.of(weights)
    levels = nested_levels(Scheme("nested", bits), sample).astype(np.float32)
    assert levels.size == 1 << bits
    assert np.isfinite(levels).all()
    assert (np.diff(levels) > 0).all()
    table = coarse_levels(levels, bits, sample)
    assert all((np.diff(table[1 << k : 2 << k]) >= 0).all() for k in range(1, bits))
