"""The weights a fitted grid looks at: checked, sorted, merged, in units of the largest magnitude."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kbit.core.errors import DTypeError, NumericsError, ShapeError

__all__ = ["Float64", "WeightSample"]

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WeightSample:
    """Distinct values of a sample with their mass. Depends on the multiset of weights only, not on their order or shape.

    Attributes:
        values: float64 [n], strictly ascending, in −1…1: weights divided by the largest magnitude of the whole sample.
        mass: float64 [n], positive: importance summed over the weights of each value (their number, without importance).
        peak: the value of largest magnitude: +1 or −1 (+1 on a tie), 0 for a sample of zeros. Its mass may be zero, and then it
            is not among `values`.
    """

    values: Float64
    mass: Float64
    peak: float

    @classmethod
    def of(cls, weights: npt.NDArray[Any], importance: npt.NDArray[Any] | None = None) -> Self:
        """Sample from weights (floating, any shape, finite in float32) and importance of the same shape (finite, >= 0).

        Weights of importance 0 do not count; if all are 0 there is nothing to prefer, and all count alike.

        Raises:
            DTypeError, ShapeError, NumericsError: what was expected and what came.
        """
        flat = _checked_weights(weights)
        mass = _checked_importance(importance, weights.shape)
        top = np.abs(flat).max()
        peak = float(np.sign(flat.max() if flat.max() == top else flat.min()))
        values, sums = _merge(flat, mass)
        return cls(values.astype(np.float64) / (np.float64(top) or 1.0), sums, peak)


def _checked_weights(weights: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if not isinstance(weights, np.ndarray) or weights.dtype.kind != "f":
        raise DTypeError(f"expected a sample of floating-point weights, got {getattr(weights, 'dtype', type(weights).__name__)}")
    if weights.size == 0:
        raise ShapeError(f"expected a sample of at least one weight, got shape {weights.shape}")
    with np.errstate(over="ignore"):
        flat = weights.ravel().astype(np.float32)
    if not np.isfinite(flat).all():
        index = int(np.flatnonzero(~np.isfinite(flat))[0])
        raise NumericsError(f"expected a sample that is finite in float32, got {weights.ravel()[index]} at index {index}")
    return flat + np.float32(0)  # −0 becomes +0


def _checked_importance(importance: npt.NDArray[Any] | None, shape: tuple[int, ...]) -> npt.NDArray[np.float32] | None:
    if importance is None:
        return None
    if not isinstance(importance, np.ndarray) or importance.dtype.kind != "f":
        raise DTypeError(f"expected floating-point importance, got {getattr(importance, 'dtype', type(importance).__name__)}")
    if importance.shape != shape:
        raise ShapeError(f"expected importance of the sample's shape {shape}, got {importance.shape}")
    mass = importance.ravel().astype(np.float64)
    wrong = ~((mass >= 0) & np.isfinite(mass))
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise NumericsError(f"expected importance that is finite and not negative, got {mass[index]} at index {index}")
    largest = mass.max()
    return (mass / largest).astype(np.float32) if largest > 0 else None  # relative, so that no sum overflows


def _merge(flat: npt.NDArray[np.float32], mass: npt.NDArray[np.float32] | None) -> tuple[npt.NDArray[np.float32], Float64]:
    """Distinct values, ascending, and the mass of each; values without mass are left out."""
    if mass is None:
        flat = np.sort(flat)
        starts = _run_starts(flat)
        return flat[starts], np.diff(starts, append=flat.size).astype(np.float64)
    flat, mass = _sort_pairs(flat[mass > 0], mass[mass > 0])
    starts = _run_starts(flat)
    return flat[starts], np.add.reduceat(mass.astype(np.float64), starts)


def _run_starts(ascending: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    return np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))


def _sort_pairs(values: npt.NDArray[np.float32], mass: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Both arrays ordered by value, then mass: equal values add up in the same order wherever they stood.

    The bits of a float32, read as an integer, order like the number once those of negative numbers are reversed; a pair of them
    is one int64 key, which sorts several times faster than an indirect sort by two keys.
    """
    bits = values.view(np.int32)
    keys = (_reverse_negative(bits).astype(np.int64) << 32) | mass.view(np.int32)
    keys.sort()
    return _reverse_negative((keys >> 32).astype(np.int32)).view(np.float32), keys.astype(np.int32).view(np.float32)


def _reverse_negative(bits: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
