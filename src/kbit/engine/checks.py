"""Numbers that options are made of: each is held against its range before any step runs."""

import math

from kbit.core.errors import SchemeError

__all__ = ["check_count", "check_number"]


def check_number(name: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """A finite number in low…high (`open_low`: above `low`).

    Raises:
        SchemeError: anything else; NaN and infinity included.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < low or value > high or (open_low and value == low):
        raise SchemeError(f"expected {name} to be {_range('a number', low, high, open_low)}, got {value!r}")


def check_count(name: str, value: int, low: int, high: int | None = None) -> None:
    """A whole number in low…high.

    Raises:
        SchemeError: anything else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        raise SchemeError(
            f"expected {name} to be {_range('a whole number', low, math.inf if high is None else high, False)}, got {value!r}"
        )


def _range(kind: str, low: float, high: float, open_low: bool) -> str:
    if low == -math.inf and high == math.inf:
        return f"{kind}, finite"
    if high == math.inf:
        return f"{kind} above {low:g}" if open_low else f"{kind} of at least {low:g}"
    return f"{kind} in {low}…{high}"
