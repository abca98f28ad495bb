"""The weights and importance that encoders take: what is accepted, and contiguous native copies of pieces of it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import DTypeError, NumericsError, ShapeError
from kbit.tensor.bfloat16 import BFloat16

__all__ = ["Importance", "Weights", "as_float32", "as_importance", "as_weights", "finite_float32", "given_weights", "native_rows"]

Array = npt.NDArray[Any]
Weights = Array | BFloat16
Importance = npt.NDArray[np.float32]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float16))


def as_weights(weights: Weights, name: str) -> Array:
    """`weights` as an array of float32, float16, or uint16 that is bfloat16 bits; strides and byte order stay.

    Raises:
        DTypeError: any other dtype. float64 and integers are not narrowed here, since that is the caller's loss to take.
    """
    if isinstance(weights, BFloat16):
        return weights.bits
    if isinstance(weights, np.ndarray):
        if weights.dtype.name == "bfloat16":  # ml_dtypes' extension type
            return weights.view(np.uint16)
        if weights.dtype.newbyteorder("=") in _FLOATS:
            return weights
    got = getattr(weights, "dtype", type(weights).__name__)
    raise DTypeError(f"{name}: expected an array of float32 or float16, or BFloat16(bits), got {got}")


def native_rows(weights: Array) -> Array:
    """The same values C-contiguous, aligned and in native byte order; a copy only if they are not."""
    return np.require(weights, weights.dtype.newbyteorder("="), ["C", "A"])


def as_float32(weights: Array) -> npt.NDArray[np.float32]:
    """float32 values of what `as_weights` returned."""
    if weights.dtype.kind == "u":
        return BFloat16(weights).to_float32()
    return weights.astype(np.float32)


def given_weights(array: Array) -> Weights:
    """What `as_weights` returned, as an encoder is given it."""
    return BFloat16(array) if array.dtype.kind == "u" else array


def finite_float32(weights: Array, name: str) -> npt.NDArray[np.float32]:
    """`as_float32`, refused where it is not finite: before what would spread a NaN, such as a rotation.

    Raises:
        NumericsError: NaN or Inf, with `name` and the place of the first.
    """
    values = as_float32(weights)
    finite = np.isfinite(values)
    if not finite.all():
        place = [int(i) for i in np.argwhere(~finite)[0]]
        raise NumericsError(f"{name}: expected finite weights, got {values[tuple(place)]} at {place}")
    return values


def as_importance(importance: Array | None, shape: tuple[int, ...], name: str) -> Importance | None:
    """Importance as float32 [cols] or broadcast (without a copy) to `shape`.

    Raises:
        DTypeError: not a floating-point array.
        ShapeError: neither [cols] nor broadcastable to `shape`.
        NumericsError: an entry that is NaN, Inf or negative.
    """
    if importance is None:
        return None
    if not isinstance(importance, np.ndarray) or importance.dtype.kind != "f":
        got = getattr(importance, "dtype", type(importance).__name__)
        raise DTypeError(f"{name}: expected importance as a floating-point array, got {got}")
    with np.errstate(over="ignore", under="ignore"):
        values = importance.astype(np.float32)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise NumericsError(f"{name}: expected importance that is finite and not negative")
    if values.shape == shape[-1:]:
        return values
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ShapeError(f"{name}: expected importance [{shape[-1]}] or {list(shape)}, got {list(importance.shape)}") from None
