"""Memory that a quantization will need, and what the process has used."""

import math
import resource
import sys
from pathlib import Path

from kbit.model.recipe import PackUnit, Recipe
from kbit.model.weights import PIECE_WEIGHTS

__all__ = ["estimate_bytes", "peak_rss_bytes", "rss_bytes"]

_STATUS = Path("/proc/self/status")
#: bytes for a weight at hand: as read, contiguous, and what the encoder derives from it
_PIECE_BYTES = 12


def estimate_bytes(recipe: Recipe) -> int:
    """Peak of resident memory to expect: what the process holds now, and the largest tensor at hand."""
    units = [_unit_bytes(unit) for unit in recipe.packed.values()]
    fused = [2 * 4 * math.prod(origin.shape) for origin in recipe.plain.values() if origin.fuse is not None]
    return rss_bytes() + _PIECE_BYTES * PIECE_WEIGHTS + max([*units, *fused, 0])


def _unit_bytes(unit: PackUnit) -> int:
    weights = math.prod(unit.shape)
    item = 4 if unit.origin.dtype == "F32" else 2
    source = 2 * item * weights if unit.origin.fuse is not None else item * weights if unit.transposed else 0
    return source + weights * (unit.scheme.bits + 2) // 8


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far.

    From `VmHWM` where there is a /proc: `ru_maxrss` of a fresh process still holds the peak of the one that started it.
    """
    value = _status("VmHWM")
    if value is not None:
        return value
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int:
    """Resident memory of this process now (the peak so far, where the system does not say)."""
    value = _status("VmRSS")
    return peak_rss_bytes() if value is None else value


def _status(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
