"""Reads a stretch of an open file whole, or says what is wrong with it.

Long stretches are read by two threads: what takes time is less the copy than the fresh memory that it goes to, which the system hands out
page by page.
"""

import os
from concurrent.futures import ThreadPoolExecutor

from kbit.core.errors import IntegrityError
from kbit.core.files import storage_errors

__all__ = ["read_exactly"]

#: bytes from which a second thread pays
_LONG = 2 << 20


def read_exactly(fd: int, out: memoryview, offset: int, path: str, size_bytes: int) -> None:
    """Fill `out` from `offset` of a file that had `size_bytes` bytes when it was opened, and must still have them.

    Raises:
        IntegrityError: the file has another size by now.
        StorageError: the disk said no.
    """
    with storage_errors(path, f"read {len(out)} bytes at byte {offset}"):
        now = os.fstat(fd).st_size
        if now != size_bytes:
            raise IntegrityError(f"{path}: expected {size_bytes} bytes as when it was opened, got {now}: another program changed it")
        if len(out) < _LONG:
            _fill(fd, out, offset, path)
        else:
            _fill_halves(fd, out, offset, path)


def _fill_halves(fd: int, out: memoryview, offset: int, path: str) -> None:
    middle = len(out) // 2
    with ThreadPoolExecutor(1) as other:
        second = other.submit(_fill, fd, out[middle:], offset + middle, path)
        _fill(fd, out[:middle], offset, path)
        second.result()


def _fill(fd: int, out: memoryview, offset: int, path: str) -> None:
    done = 0
    while done < len(out):
        count = os.preadv(fd, [out[done:]], offset + done)
        if count == 0:
            raise IntegrityError(f"{path}: expected {len(out)} bytes at byte {offset}, got {done}: the file shrank")
        done += count
