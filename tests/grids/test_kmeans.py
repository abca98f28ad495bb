import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kbit.core.scheme import Scheme
from kbit.grids.kmeans import kmeans_levels
from kbit.grids.sample import WeightSample

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def levels_of(bits: int, weights: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    return np.unique(kmeans_levels(Scheme("kmeans", bits), WeightSample.of(weights, importance)))


def error(levels: np.ndarray, sample: WeightSample) -> float:
    """Weighted squared error of the nearest levels."""
    return float((sample.mass * np.abs(sample.values[:, None] - levels).min(axis=1) ** 2).sum())


def least_error(sample: WeightSample, count: int) -> float:
    """Least squared error of `count` levels, one of them fixed at the peak, by plain dynamic programming over all splits."""
    sign = sample.peak or 1.0
    values, mass = (sign * sample.values)[:: int(sign)], sample.mass[:: int(sign)]
    size = values.size

    def spread(start: int, stop: int, level: float | None = None) -> float:
        if start == stop:
            return 0.0
        x, w = values[start:stop], mass[start:stop]
        return float((w * (x - ((w * x).sum() / w.sum() if level is None else level)) ** 2).sum())

    best = [spread(0, stop) for stop in range(size + 1)]
    for _ in range(count - 2):
        best = [min(best[start] + spread(start, stop) for start in range(stop + 1)) for stop in range(size + 1)]
    return min(best[start] + spread(start, size, 1.0) for start in range(size + 1))


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 24), elements=st.floats(-1, 1, width=16)), st.integers(1, 3), st.integers(0, 9))
def test_small_samples_are_solved_to_the_optimum(weights: np.ndarray, bits: int, seed: int) -> None:
    importance = np.random.default_rng(seed).choice([0.0, 0.125, 1.0], weights.size)
    sample = WeightSample.of(weights, importance)
    if not weights.any():
        return
    assert error(levels_of(bits, weights, importance), sample) == pytest.approx(least_error(sample, 2**bits), rel=1e-6, abs=1e-12)


def test_mirrored_samples_have_mirrored_levels() -> None:
    weights = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    weights[0] = 5
    np.testing.assert_array_equal(levels_of(4, -weights), -levels_of(4, weights)[::-1])


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_large_samples_come_near_the_best_of_many_restarts(bits: int) -> None:
    rng = np.random.default_rng(bits)
    sample = WeightSample.of(rng.standard_t(4, 20_000).astype(np.float32))
    found = error(kmeans_levels(Scheme("kmeans", bits), sample), sample)
    best = min(error(lloyd(sample, rng, 2**bits), sample) for _ in range(4))
    assert found <= best * 1.01


def lloyd(sample: WeightSample, rng: np.random.Generator, count: int) -> np.ndarray:
    """Plain Lloyd from random values, the peak fixed."""
    density = np.abs(sample.values) + 0.02  # spread the start, as a good start would be
    start = rng.choice(sample.values[:-1], count - 1, replace=False, p=density[:-1] / density[:-1].sum())
    levels = np.append(np.sort(start), sample.peak) if sample.peak > 0 else np.insert(np.sort(start), 0, sample.peak)
    for _ in range(100):
        nearest = np.searchsorted((levels[:-1] + levels[1:]) / 2, sample.values)
        mass = np.bincount(nearest, sample.mass, count)
        levels = np.where(mass > 0, np.bincount(nearest, sample.mass * sample.values, count) / np.maximum(mass, 1e-300), levels)
        levels[np.abs(levels).argmax()] = sample.peak
    return levels


def test_a_sharp_centre_is_resolved() -> None:
    """Nearly all weights within ±0.001 of 0 and a few outliers up to 1: a grid of evenly spaced bins would see one value."""
    rng = np.random.default_rng(3)
    weights = np.concatenate([rng.standard_normal(50_000) * 3e-4, rng.uniform(-1, 1, 5), [1.0]]).astype(np.float32)
    sample = WeightSample.of(weights)
    centre = np.abs(sample.values) < 0.002
    levels = levels_of(6, weights)
    nearest = np.abs(sample.values[centre, None] - levels).min(axis=1)
    assert np.sqrt((nearest**2).mean()) < 0.1 * 3e-4


def test_importance_pulls_levels() -> None:
    weights = np.linspace(-1, 1, 2001)
    importance = np.where(np.abs(weights - 0.5) < 0.1, 1000.0, 1e-3)
    levels = levels_of(3, weights, importance)
    assert np.count_nonzero(np.abs(levels - 0.5) < 0.1) >= 5
    assert levels[-1] == 1


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 400), elements=FINITE), st.integers(1, 8), st.booleans())
def test_any_finite_sample_has_levels(weights: np.ndarray, bits: int, weighted: bool) -> None:
    importance = np.arange(weights.size, dtype=np.float64) if weighted else None
    levels = levels_of(bits, weights, importance)
    assert np.isfinite(levels).all()
    assert 1 <= levels.size <= 2**bits
    assert np.abs(levels).max() == (1 if weights.any() else 0)


def test_the_peak_is_exactly_one_far_from_the_centre() -> None:
    weights = np.array([0.0, 7.1078223e31, -3.9456345e15, -3.9456344e15])
    assert levels_of(1, weights)[-1] == 1


def test_few_distinct_values_are_the_levels() -> None:
    assert levels_of(2, np.array([0.25, -0.5, 0.25, -0.5, 0.5])).tolist() == [-1, 0.5, 1]
    assert levels_of(4, np.full(9, -0.125)).tolist() == [-1]
    assert levels_of(4, np.zeros(9)).tolist() == [0]


def test_the_peak_is_a_level_though_it_has_no_importance() -> None:
    assert levels_of(1, np.array([0.25, 0.25, -1.0]), np.array([1.0, 1.0, 0.0])).tolist() == [-1, 0.25]


def test_many_values_of_almost_no_mass_do_not_starve_the_bins() -> None:
    weights = np.concatenate([np.zeros(1_000_000), np.linspace(1e-7, 2e-7, 3000), [1.0]]).astype(np.float32)
    assert levels_of(8, weights).size == 256
