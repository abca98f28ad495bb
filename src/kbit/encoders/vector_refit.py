"""The codebook that fits codes and scales best under a Hessian: the last step between two rounds of GPTQ over vectors.

With codes and scales fixed, ŵ is linear in the codebook C, so Σ_rows (w − ŵ) H (w − ŵ)ᵀ is a quadratic form in its 2^bits · dims
numbers. Its gradient is gathered from (ŵ − w) H, code by code, and conjugate gradients (Hestenes and Stiefel, 1952) go down from the
codebook at hand. (Egiazarian et al., "AQLM", 2024, §3.2, update codebooks likewise, by Adam.)
"""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["refit_codebook"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_STEPS = 12


def refit_codebook(weights: Float32, codes: Bytes, scale: Float32, hessian: Float32, codebook: Float32) -> Float32:
    """Codebook [n, dims] that loses less, or the one given.

    Args:
        weights: [rows, cols].
        codes: [rows, ceil(cols / dims)].
        scale: scale of each weight, [rows, cols].
        hessian: [cols, cols], damped or not.
        codebook: [n, dims], where to start.
    """
    cols, dims = weights.shape[1], codebook.shape[1]

    def product(entries: Float64) -> Float32:
        decoded = entries.astype(np.float32)[codes].reshape(len(codes), -1)[:, :cols]
        return np.asarray((scale * decoded) @ hessian, np.float32)

    def gathered(values: Float32) -> Float64:
        weighted = values * scale
        padded = np.pad(weighted, ((0, 0), (0, codes.shape[1] * dims - cols)))
        flat = codes.reshape(-1)
        return np.stack([np.bincount(flat, padded[:, c::dims].reshape(-1), len(codebook)) for c in range(dims)], axis=1)

    found: Float64 = codebook.astype(np.float64)
    residual = gathered(weights @ hessian - product(found))
    direction, size = residual.copy(), float(np.sum(residual * residual))
    start = size
    for _ in range(_STEPS):
        if size <= 1e-8 * start or size == 0:
            break
        curved = gathered(product(direction))
        curvature = float(np.sum(direction * curved))
        if not curvature > 0:
            break
        step = size / curvature
        found += step * direction
        residual -= step * curved
        before, size = size, float(np.sum(residual * residual))
        direction = residual + (size / before) * direction
    out = found.astype(np.float32)
    return out if np.isfinite(out).all() else codebook
