"""Typed face of the compiled module: everything is validated here, before it reaches C++.

Importing it fails with one clear line where the compiled part is missing. `KBIT_ISA` and `KBIT_THREADS` set the instruction
set and the number of threads that a process starts with.
"""

import os

from kbit.core.errors import KbitError, SchemeError
from kbit.core.registry import suggest

try:
    from kbit.native import _kbit
except ImportError as error:  # a wheel of another Python or a source tree that was not built
    raise KbitError(f"kbit's compiled module cannot be loaded ({error}); reinstall kbit, or run scripts/build in a source tree") from error

__all__ = ["available_isas", "int8_roof", "isa", "memory_roof", "set_isa", "set_threads", "threads"]

MAX_THREADS = 256


def available_isas() -> list[str]:
    """Instruction sets that this processor and build can run, best first; ``scalar`` is always there."""
    names: list[str] = _kbit.available_isas()
    return names


def isa() -> str:
    """The instruction set in use."""
    name: str = _kbit.isa()
    return name


def set_isa(name: str) -> None:
    """Use the instruction set `name` from now on; results do not change with it.

    Raises:
        SchemeError: an instruction set that this processor or build does not have.

    """
    if name not in available_isas():
        raise SchemeError(f"instruction set {name!r} cannot run here: {suggest(name, available_isas())}")
    _kbit.set_isa(name)


def threads() -> int:
    """Threads used where a caller does not say."""
    count: int = _kbit.threads()
    return count


def set_threads(count: int) -> None:
    """Use `count` threads (1…256) from now on; 0 goes back to the number of CPUs this process may use."""
    if not 0 <= count <= MAX_THREADS:
        raise SchemeError(f"threads must be 0…{MAX_THREADS}, got {count}")
    _kbit.set_threads(count)


def memory_roof(threads: int = 0, size_bytes: int = 256 << 20) -> float:
    """GB/s (10⁹ bytes) of one pass of a plain reading loop over `size_bytes` of memory."""
    rate: float = _kbit.memory_roof(size_bytes, threads)
    return rate


def int8_roof(threads: int = 0) -> float:
    """10⁹ int8 multiply-adds a second of this instruction set's dot products on registers alone."""
    rate: float = _kbit.int8_roof(threads)
    return rate


def _check_environment() -> None:
    if wanted := os.environ.get("KBIT_ISA"):
        set_isa(wanted)
    asked = os.environ.get("KBIT_THREADS")
    if asked is not None and not (asked.isascii() and asked.isdigit() and 1 <= int(asked) <= MAX_THREADS):
        raise SchemeError(f"KBIT_THREADS must be 1…{MAX_THREADS}, got {asked!r}")


_check_environment()
