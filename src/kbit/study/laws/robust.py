"""Robust fits: what outliers pull, they pull by their sign and no more.

`solve` is for what is linear in its coefficients: iteratively reweighted least squares with the soft-L1 loss ρ(r) = 2(√(1 + r²) − 1),
convex, so there is one answer and no start. `minimize` is for the rest: scipy's `least_squares` from several starts. In both a coefficient
has a prior: a mean, and how far from it is no surprise.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import MissingExtraError

__all__ = ["Floats", "minimize", "solve"]

Floats = NDArray[np.float64]

_ROUNDS = 80
_TOLERANCE = 1e-5


def solve(features: Floats, target: Floats, scale: Floats, mean: Floats, deviation: Floats, start: Floats | None = None) -> Floats:
    """Coefficients c that minimise Σ ρ((features·c − target)/scale) + Σ ρ((c − mean)/deviation).

    Args:
        features: [rows, coefficients].
        target: [rows].
        scale: [rows], what counts as a usual residual.
        mean: [coefficients], of the priors.
        deviation: [coefficients], of the priors.
        start: coefficients nearby, to begin with.

    A row has a handful of terms among thousands of coefficients, so the normal equations are sparse.

    Returns:
        [coefficients].

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.sparse import csr_array, diags_array
        from scipy.sparse.linalg import spsolve
    except ImportError:
        raise MissingExtraError("scipy", "study") from None
    terms = csr_array(features)
    found: Floats = mean if start is None else start
    for _ in range(_ROUNDS):
        residual = (terms @ found - target) / scale
        weight = 1 / (np.sqrt(1 + residual**2) * scale**2)
        prior = 1 / (np.sqrt(1 + ((found - mean) / deviation) ** 2) * deviation**2)
        normal = terms.T @ diags_array(weight) @ terms + diags_array(prior)
        step = np.atleast_1d(spsolve(normal.tocsc(), terms.T @ (weight * target) + prior * mean))
        moved = float(np.max(np.abs(step - found), initial=0.0))
        found = np.asarray(step, np.float64)
        if moved < _TOLERANCE:
            break
    return found


def minimize(
    residuals: Callable[[Floats], Floats],
    jacobian: Callable[[Floats], Floats],
    starts: Sequence[Floats],
    bounds: tuple[Floats, Floats],
) -> Floats:
    """The best of the robust fits (Cauchy's loss, residuals in units of their scale) from several starts.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MissingExtraError("scipy", "study") from None
    low, high = bounds
    fits = [
        least_squares(residuals, np.clip(start, low + 1e-9, high - 1e-9), jacobian, bounds=bounds, loss="cauchy", max_nfev=200)
        for start in starts
    ]
    best: Floats = min(fits, key=lambda fit: float(fit.cost)).x
    return best
