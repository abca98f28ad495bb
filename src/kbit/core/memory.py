"""Resident memory of this process."""

import ctypes
import resource
import sys
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["give_back_freed", "peak_rss_bytes", "reset_peak_rss", "rss_bytes"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far.

    From `VmHWM` where there is a /proc: `ru_maxrss` of a fresh process still holds the peak of the one that started it.
    """
    value = _status("VmHWM")
    if value is not None:
        return value
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_rss() -> bool:
    """Let `peak_rss_bytes` begin again from what is resident now; False where the system cannot."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def rss_bytes() -> int:
    """Resident memory of this process now (the peak so far, where the system does not say)."""
    value = _status("VmRSS")
    return peak_rss_bytes() if value is None else value


def give_back_freed() -> None:
    """Hand memory that was freed back to the system, which glibc keeps where it lies between blocks in use; nothing with other allocators.

    Blocks of tens of megabytes that come and go leave holes that the next ones do not fit into, so that a process which only ever holds one
    layer at a time grows with each.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _status(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
