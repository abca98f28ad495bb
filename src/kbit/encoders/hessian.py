"""The Hessian of a layer's squared output error, damped and factored.

A layer y = W x with inputs x (rows of X) loses ‖(W − Ŵ) Xᵀ‖² = Σ_rows e H eᵀ with e = w − ŵ and H = XᵀX. With H = R Rᵀ, R upper triangular:

    e H eᵀ = ‖e R‖² = Σ_j (e_j R_jj + Σ_{i<j} e_i R_ij)²

so each column adds one square in which only columns to its left take part. R is the Cholesky factor of H with its columns in reverse.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import DTypeError, NumericsError, ShapeError

__all__ = ["DAMPING", "checked_hessian", "damped", "damped_factor"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: added to the diagonal, in parts of its mean (Frantar et al. 2022, §4)
DAMPING = 0.01
_MOST_DAMPING = 1.0


def checked_hessian(hessian: Array, cols: int, name: str) -> Array:
    """`hessian` if it may be one of a layer with `cols` inputs.

    Raises:
        DTypeError, ShapeError: not a floating-point matrix [cols, cols].
        NumericsError: a NaN or Inf, with its place, or a negative diagonal.
    """
    if not isinstance(hessian, np.ndarray) or hessian.dtype.kind != "f":
        raise DTypeError(f"{name}: expected a floating-point Hessian, got {getattr(hessian, 'dtype', type(hessian).__name__)}")
    if hessian.shape != (cols, cols):
        raise ShapeError(f"{name}: expected a Hessian [{cols}, {cols}], got {list(hessian.shape)}")
    finite = np.isfinite(hessian)
    if not finite.all():
        row, col = (int(i) for i in np.argwhere(~finite)[0])
        raise NumericsError(
            f"{name}: expected a finite Hessian, got {hessian[row, col]} at [{row}, {col}]: its inputs overflow or are not finite"
        )
    diagonal = np.diagonal(hessian)
    if (diagonal < 0).any():
        col = int(np.argmin(diagonal))
        raise NumericsError(f"{name}: expected a Hessian with a diagonal of at least 0, got {diagonal[col]} at [{col}, {col}]")
    return hessian


def damped(hessian: Array, *, damping: float = DAMPING) -> Float32:
    """H + λI in parts of H's mean diagonal, float32 [cols, cols]; I for a Hessian of zeros."""
    mean = float(np.diagonal(hessian).mean(dtype=np.float64))
    if mean == 0:
        return np.eye(len(hessian), dtype=np.float32)
    scaled = (hessian / mean).astype(np.float32)
    scaled[np.diag_indices_from(scaled)] += np.float32(damping)
    return scaled


def damped_factor(hessian: Array, name: str, *, damping: float = DAMPING) -> Float64:
    """Upper triangular R with R Rᵀ = H + λI, float64 [cols, cols]; λ = damping · mean diagonal.

    A Hessian of zeros (inputs that were never seen, or always 0) stands for inputs that are independent and alike: R = I, and no error is
    compensated. Where rounding leaves H + λI short of positive definite, λ is taken ten times larger, up to the mean diagonal itself.

    Raises:
        NumericsError: damping outside 0…1, or no λ makes it positive definite: this is no Hessian.
    """
    if not 0 <= damping <= _MOST_DAMPING:
        raise NumericsError(f"{name}: expected damping in 0…{_MOST_DAMPING:g}, got {damping}")
    flipped = hessian[::-1, ::-1].astype(np.float64)
    mean = float(np.diagonal(flipped).mean())
    if mean == 0:
        return np.eye(len(flipped))
    flipped /= mean  # so that no square of a tiny or huge input leaves float64
    given = np.diagonal(flipped).copy()
    while True:
        np.fill_diagonal(flipped, given + damping)
        try:
            return np.ascontiguousarray(np.linalg.cholesky(flipped)[::-1, ::-1])
        except np.linalg.LinAlgError:
            if damping >= _MOST_DAMPING:
                raise NumericsError(f"{name}: expected a positive semidefinite Hessian, got one that damping cannot mend") from None
            damping = min(max(10 * damping, 1e-6), _MOST_DAMPING)
