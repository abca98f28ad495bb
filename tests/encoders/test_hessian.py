"""The factor of a damped Hessian, and what is none."""

import numpy as np
import pytest

from kbit.core.errors import DTypeError, NumericsError, ShapeError
from kbit.encoders.hessian import checked_hessian, damped_factor


def hessian(cols: int = 40, samples: int = 60) -> np.ndarray:
    inputs = np.random.default_rng(0).normal(size=(samples, cols)) * np.exp(np.linspace(-3, 3, cols))
    return (inputs.T @ inputs).astype(np.float32)


@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_the_factor_is_upper_triangular_and_multiplies_back(damping: float, size: float) -> None:
    given = (hessian().astype(np.float64) * size).astype(np.float32)
    mean = np.diagonal(given).mean(dtype=np.float64)
    factor = damped_factor(given, "layer", damping=damping)
    assert np.array_equal(factor, np.triu(factor))
    expected = given / mean + damping * np.eye(40)
    np.testing.assert_allclose(factor @ factor.T, expected, rtol=1e-6, atol=1e-9 * expected.max())


def test_zeros_stand_for_inputs_that_are_alike() -> None:
    assert np.array_equal(damped_factor(np.zeros((5, 5), np.float32), "layer"), np.eye(5))


def test_what_rounding_left_indefinite_is_damped_more() -> None:
    given = hessian(samples=3)  # rank 3
    factor = damped_factor(given - 1e-4 * np.diagonal(given).mean() * np.eye(40, dtype=np.float32), "layer", damping=0.0)
    assert np.isfinite(factor).all()


def test_what_is_no_hessian() -> None:
    given = hessian()
    assert checked_hessian(given, 40, "layer") is given
    with pytest.raises(DTypeError, match="layer: expected a floating-point Hessian, got int64"):
        checked_hessian(given.astype(np.int64), 40, "layer")
    with pytest.raises(ShapeError, match=r"layer: expected a Hessian \[41, 41\], got \[40, 40\]"):
        checked_hessian(given, 41, "layer")
    with pytest.raises(NumericsError, match=r"layer: expected a finite Hessian, got inf at \[2, 1\]"):
        checked_hessian(np.where(np.arange(1600).reshape(40, 40) == 81, np.inf, given), 40, "layer")
    with pytest.raises(NumericsError, match="layer: expected a Hessian with a diagonal of at least 0"):
        checked_hessian(-given, 40, "layer")
    with pytest.raises(NumericsError, match=r"layer: .* damping cannot mend"):
        damped_factor(np.diagonal(given).mean() * (10 * np.ones((40, 40)) - 9 * np.eye(40)) * np.sign(np.arange(40) - 19.5), "layer")
    with pytest.raises(NumericsError, match=r"layer: expected damping in 0…1, got 1.5"):
        damped_factor(given, "layer", damping=1.5)
