"""Room for Hessians: main memory up to a limit, mapped files beyond it.

A mixture of experts has a Hessian for each expert of a layer, which may be more than the machine holds. Sums that would go over the limit
are kept in files without a name beside the output, which the system writes out as it needs to and which are gone with the process, however
it ends. The arithmetic is the same either way, and so are the bytes.
"""

import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from kbit.core.errors import SchemeError
from kbit.core.files import storage_errors

__all__ = ["Room"]


class Room:
    """Makes zeros for sums.

    Attributes:
        limit_bytes: memory that sums may take at a time; None for no limit.
        spilled_bytes: what went into files so far.
    """

    def __init__(self, limit_bytes: int | None = None, folder: Path | None = None) -> None:
        """Room in main memory; beyond `limit_bytes` in files in `folder`, which must be there then.

        Raises:
            SchemeError: a limit below one byte, or without a folder.
        """
        if limit_bytes is not None and (limit_bytes < 1 or folder is None):
            raise SchemeError(f"expected a memory limit of at least 1 byte and a folder for what goes over it, got {limit_bytes}")
        self.limit_bytes, self._folder = limit_bytes, folder
        self.spilled_bytes = 0
        self._used = 0

    def clear(self) -> None:
        """What was made so far is no longer in use."""
        self._used = 0

    def zeros(self, *shape: int) -> torch.Tensor:
        """Zeros of float32.

        Raises:
            StorageError: the disk has no room for them.
        """
        size = 4 * math.prod(shape)
        if self.limit_bytes is None or self._used + size <= self.limit_bytes:
            self._used += size
            return torch.zeros(shape, dtype=torch.float32)
        assert self._folder is not None, "checked when the limit was set"
        with storage_errors(self._folder, "make room for Hessians in"), tempfile.TemporaryFile(dir=self._folder) as file:
            file.truncate(size)
            mapped = np.memmap(file, np.float32, "r+", shape=shape)
        self.spilled_bytes += size
        return torch.from_numpy(mapped)
