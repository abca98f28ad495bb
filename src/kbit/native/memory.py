"""Anonymous memory on huge pages, handed out piece by piece: where the engine keeps weights.

A pass over the weights of a large model touches more 4 KiB pages than the processor can keep translations for; with 2 MiB pages it does
not. The kernel is asked (`MADV_HUGEPAGE`); where it has none to give, ordinary pages serve, silently. `huge_pages` says which it is.
"""

import contextlib
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import ShapeError

__all__ = ["ALIGNMENT", "HUGE_PAGES", "HugeMemory", "huge_pages"]

ALIGNMENT = 64
_CHUNK_BYTES = 64 << 20
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_pages(setting: Path = HUGE_PAGES) -> str:
    """Mode of transparent huge pages: ``always``, ``madvise``, ``never``, or ``unknown`` where the kernel does not say."""
    try:
        text = setting.read_text(encoding="ascii")
    except (OSError, ValueError):
        return "unknown"
    return text.partition("[")[2].partition("]")[0] or "unknown"


class HugeMemory:
    """Grows by mappings of at least 64 MiB of address space; pages are used as they are written, and freed with the last array.

    Args:
        size_bytes: room for so many bytes in one mapping, if known.
    """

    def __init__(self, size_bytes: int = 0) -> None:
        self._expected = size_bytes
        self._chunk: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._used = 0
        self.size_bytes = 0

    def empty(self, size_bytes: int) -> NDArray[np.uint8]:
        """Fresh bytes, aligned to 64."""
        if size_bytes < 0:
            raise ShapeError(f"expected a size of at least 0 bytes, got {size_bytes}")
        if self._used + size_bytes > self._chunk.size:
            self._grow(size_bytes)
        piece = self._chunk[self._used : self._used + size_bytes]
        self._used += -(-size_bytes // ALIGNMENT) * ALIGNMENT
        self.size_bytes += size_bytes
        return piece

    def _grow(self, size_bytes: int) -> None:
        wanted = max(size_bytes + ALIGNMENT, self._expected - self.size_bytes, _CHUNK_BYTES)
        memory = mmap.mmap(-1, wanted, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._chunk = np.frombuffer(memory, np.uint8)
        self._used = 0
