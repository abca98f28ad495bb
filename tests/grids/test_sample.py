import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kbit.core.errors import DTypeError, NumericsError, ShapeError
from kbit.grids.sample import WeightSample

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=FINITE), st.data())
def test_values_and_mass_are_those_of_the_multiset(weights: np.ndarray, data: st.DataObject) -> None:
    importance = data.draw(hnp.arrays(np.float32, weights.shape, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    importance[0] = 1.0
    sample = WeightSample.of(weights, importance)
    mass: dict[float, float] = {}
    for weight, share in zip(weights.tolist(), importance.tolist(), strict=True):
        if share:
            mass[weight + 0.0] = mass.get(weight + 0.0, 0.0) + share
    top = max(abs(float(weight)) for weight in weights) or 1.0
    assert sample.values.tolist() == [value / top for value in sorted(mass)]
    assert sample.mass.tolist() == [mass[value] for value in sorted(mass)]
    assert sample.peak == (0 if not weights.any() else 1 if weights.max() >= -weights.min() else -1)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=FINITE), st.randoms(use_true_random=False))
def test_order_and_shape_do_not_matter(weights: np.ndarray, random: object) -> None:
    importance = np.linspace(0.1, 1, weights.size, dtype=np.float32) / 3
    order = np.array(sorted(range(weights.size), key=lambda _: random.random()))  # type: ignore[attr-defined]
    one = WeightSample.of(weights, importance)
    two = WeightSample.of(weights[order].reshape(1, -1), importance[order].reshape(1, -1))
    assert one.values.tobytes() == two.values.tobytes()
    assert one.mass.tobytes() == two.mass.tobytes()


def test_without_importance_mass_is_the_count() -> None:
    sample = WeightSample.of(np.array([0.5, -1, 0.5, -0.0, 0.0]))
    assert sample.values.tolist() == [-1, 0, 0.5]
    assert sample.mass.tolist() == [1, 2, 2]
    assert sample.peak == -1


def test_importance_of_zero_everywhere_prefers_nothing() -> None:
    weights = np.array([0.5, 1.0, 0.5], dtype=np.float32)
    assert WeightSample.of(weights, np.zeros(3)).mass.tolist() == [2, 1]


def test_importance_near_the_end_of_float64_does_not_overflow() -> None:
    sample = WeightSample.of(np.ones(4, dtype=np.float32), np.full(4, 1.5e308))
    assert sample.mass.tolist() == [4]


@pytest.mark.parametrize("weights", [np.array([1, 2]), np.array(["a"]), np.array([1j]), [0.5]])
def test_other_dtypes_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(DTypeError, match="expected a sample of floating-point weights, got"):
        WeightSample.of(weights)


@pytest.mark.parametrize("importance", [np.array([1, 2]), [0.5, 0.5]])
def test_other_dtypes_of_importance_are_refused(importance: np.ndarray) -> None:
    with pytest.raises(DTypeError, match="expected floating-point importance, got"):
        WeightSample.of(np.ones(2), importance)


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"at least one weight, got shape \(0, 3\)"):
        WeightSample.of(np.empty((0, 3)))


def test_importance_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"sample's shape \(2, 3\), got \(6,\)"):
        WeightSample.of(np.ones((2, 3)), np.ones(6))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_weights_that_are_not_finite_in_float32_are_refused(bad: float) -> None:
    with pytest.raises(NumericsError, match=r"finite in float32, got .* at index 2"):
        WeightSample.of(np.array([[0.0, 1.0], [bad, bad]]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_importance_that_is_negative_or_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(NumericsError, match=r"finite and not negative, got .* at index 1"):
        WeightSample.of(np.ones(3), np.array([1.0, bad, 1.0]))
