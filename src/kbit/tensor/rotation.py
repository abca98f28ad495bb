"""Randomized Hadamard rotation of a matrix's inputs, the method ``rotate`` of a scheme.

    Q = blockdiag(H, …, H) · diag(signs)        y = W x = (W Qᵀ)(Q x)

H is the Walsh–Hadamard matrix of size `rotation_block(cols)` in Sylvester's order over the root of its size, so Q is orthogonal and no
product changes. Codes are of W Qᵀ: every weight there is a sum of a whole block's weights with random signs, close to Gaussian whatever
they were, and no group has an outlier that its scale must reach. Inputs are rotated as they are quantized (n log n additions a
token), and their outliers are spread over the block as well. Ashkboos et al.: "QuaRot" (2024); Tseng et al.: "QuIP#" (2024), §3.

Signs are a fixed hash of the input's index, so nothing is stored and every matrix with as many inputs has the same Q: what reads one input
rotates it once. `reference_rotate` is the oracle of the native transform, equal to it bit for bit.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import ShapeError
from kbit.core.rotation import MIN_BLOCK, rotation_block
from kbit.native import rotation as native

__all__ = ["input_signs", "reference_restore", "reference_rotate", "restore_rows", "rotate_diagonal", "rotate_moments", "rotate_rows"]

Floats = npt.NDArray[np.float32]


def input_signs(cols: int) -> Floats:
    """±1 for each input: −1 where the top bit of MurmurHash3's 32-bit finalizer (Appleby) of the index is set; float32 [cols]."""
    h = np.arange(cols, dtype=np.uint32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return np.where(h >> np.uint32(31), np.float32(-1), np.float32(1))


def reference_rotate(x: Floats) -> Floats:
    """X Qᵀ of float32 rows [rows, cols]: sign and scale, then stages of sums and differences, each rounded."""
    block = _block(x.shape[-1])
    return _hadamard(x * (input_signs(x.shape[-1]) * _size(block)), block)


def reference_restore(x: Floats) -> Floats:
    """X Q, the way back from `reference_rotate`."""
    block = _block(x.shape[-1])
    return _hadamard(x, block) * (input_signs(x.shape[-1]) * _size(block))


def rotate_rows(x: npt.NDArray[Any], *, threads: int = 0) -> Floats:
    """X Qᵀ of rows [..., cols], as a new float32 array of the same shape.

    Raises:
        ShapeError: rows of a length that cannot be rotated (`rotation_block`).
    """
    return _turned(x, threads, back=False)


def restore_rows(x: npt.NDArray[Any], *, threads: int = 0) -> Floats:
    """X Q, the way back from `rotate_rows`, as a new float32 array.

    Raises:
        ShapeError: as `rotate_rows`.
    """
    return _turned(x, threads, back=True)


def rotate_moments(moments: npt.NDArray[Any], *, threads: int = 0) -> Floats:
    """Q H Qᵀ: what H = XᵀX [..., cols, cols] is for rotated inputs; float32.

    Raises:
        ShapeError: as `rotate_rows`.
    """
    half = rotate_rows(moments, threads=threads)
    return rotate_rows(np.swapaxes(half, -1, -2), threads=threads)


def rotate_diagonal(diagonal: npt.NDArray[Any]) -> Floats:
    """Diagonal [..., cols] of Q H Qᵀ for an H that is diagonal itself: the mean of each block, since all entries of Q are as large.

    Raises:
        ShapeError: as `rotate_rows`.
    """
    block = _block(diagonal.shape[-1])
    means = np.asarray(diagonal, np.float32).reshape(*diagonal.shape[:-1], -1, block).mean(-1, keepdims=True)
    return np.repeat(means, block, axis=-1).reshape(diagonal.shape).astype(np.float32)


def _turned(x: npt.NDArray[Any], threads: int, *, back: bool) -> Floats:
    block = _block(x.shape[-1])
    rows = np.ascontiguousarray(x, np.float32).reshape(-1, x.shape[-1])
    return native.rotate_rows(rows, block, back=back, threads=threads).reshape(x.shape)


def _block(cols: int) -> int:
    block = rotation_block(cols)
    if not block:
        raise ShapeError(f"expected rows whose length is a multiple of {MIN_BLOCK}, which can be rotated, got {cols}")
    return block


def _size(block: int) -> np.float32:
    return np.float32(np.float32(1) / np.sqrt(np.float32(block)))


def _hadamard(x: Floats, block: int) -> Floats:
    """Walsh–Hadamard transform of each block of the last dimension, not scaled."""
    shape, half = x.shape, 1
    while half < block:
        pairs = x.reshape(-1, 2, half)
        a, b = pairs[:, 0], pairs[:, 1]
        x = np.stack([a + b, a - b], axis=1)
        half *= 2
    return np.asarray(x.reshape(shape), np.float32)
