"""How much of an axis a chart shows."""

from collections.abc import Sequence

__all__ = ["widened"]

_LEAST = 0.2


def widened(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value, taken apart where they are so near that an axis between them would show differences that are none."""
    low, high = min(values), max(values)
    missing = max(_LEAST * max(abs(low), abs(high)) - (high - low), 0.0)
    return low - missing / 2, high + missing / 2
