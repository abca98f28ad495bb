import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kbit.core.scheme import Scheme
from kbit.grids.quantile import quantile_levels
from kbit.grids.sample import WeightSample


def levels_of(bits: int, weights: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    return quantile_levels(Scheme("quantile", bits), WeightSample.of(weights, importance))


def reference(bits: int, weights: np.ndarray) -> np.ndarray:
    """The formula, with numpy's inverse distribution function."""
    bounds = np.quantile(weights, np.arange(2**bits + 1) / 2**bits, method="inverted_cdf")
    levels = (bounds[:-1] + bounds[1:]) / 2
    return levels / np.abs(levels).max()


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_follow_the_formula(bits: int) -> None:
    weights = np.random.default_rng(bits).standard_normal(5000).astype(np.float32)
    weights /= np.abs(weights).max()
    np.testing.assert_allclose(levels_of(bits, weights), reference(bits, weights.astype(np.float64)), rtol=1e-12)


def test_importance_counts_as_repetition() -> None:
    rng = np.random.default_rng(1)
    weights, times = rng.standard_normal(300).astype(np.float32), rng.integers(0, 4, 300)
    weights[0], times[0] = 4.0, 3
    repeated = levels_of(3, np.repeat(weights, times))
    np.testing.assert_array_equal(levels_of(3, weights, times.astype(np.float32)), repeated)


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 400), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.integers(1, 8),
)
def test_any_finite_sample_has_levels(weights: np.ndarray, bits: int) -> None:
    levels = levels_of(bits, weights)
    assert np.isfinite(levels).all()
    assert (np.diff(levels) >= 0).all()
    assert 1 <= levels.size <= 2**bits
    assert np.abs(levels).max() == (1 if weights.any() else 0)


def test_few_distinct_values_are_the_levels() -> None:
    assert levels_of(2, np.array([0.25, -0.5, 0.25, -0.5, 0.5])).tolist() == [-1, 0.5, 1]
    assert levels_of(4, np.full(9, -0.125)).tolist() == [-1]
    assert levels_of(4, np.zeros(9)).tolist() == [0]
