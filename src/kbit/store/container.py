"""Reads a container (a safetensors file) without trusting it.

Bytes come by `pread` into fresh memory, and through a mapping only on request: a file that shrinks under a mapping kills the process with
SIGBUS, and the engine wants its weights in anonymous huge pages anyway. The size is checked again at every read, so a file that shrank or
grew since it was opened is an `IntegrityError`.
"""

import errno
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import FormatError, IntegrityError, LimitError, ShapeError, StorageError
from kbit.core.files import open_regular, storage_errors
from kbit.store.header import DTYPES, Limits, TensorEntry, near, scan_header
from kbit.store.reading import read_exactly
from kbit.store.seal import check_seal, tensor_hasher

__all__ = ["CHUNK_BYTES", "Container", "Memory", "open_container"]

CHUNK_BYTES = 1 << 20
DEFAULT_LIMITS = Limits()
_FOREIGN = {
    b"PK\x03\x04": "a zip archive, perhaps a pickled torch checkpoint: convert it to safetensors",
    b"%PDF": "a PDF",
    b"GGUF": "a GGUF file",
    b"\x80": "perhaps a pickle: convert it to safetensors",
}


class Memory(Protocol):
    """Where tensors are read to, such as `kbit.native.memory.HugeMemory`."""

    def empty(self, size_bytes: int) -> NDArray[np.uint8]:
        """Fresh bytes, aligned for any dtype."""


class Container:
    """An open container. Use as a context manager, or `close` it.

    Attributes:
        path: the file.
        size_bytes: its size when it was opened.
        metadata: the header's string pairs.
        hashes: name → SHA-256 hex of the tensor as kbit's seal states it; None for a plain safetensors file.
    """

    _fd = -1

    def __init__(self, path: Path, fd: int, size_bytes: int, limits: Limits, memory: Memory | None = None, *, mapped: bool = False) -> None:
        self.path, self.size_bytes, self._memory = path, size_bytes, memory
        self._mapping: NDArray[np.uint8] | None = None
        head = _read_head(fd, size_bytes, str(path), limits)
        header = scan_header(head, size_bytes - len(head), str(path), limits)
        hashes = check_seal(head, header, str(path))
        self.header_bytes = len(head)
        self.metadata, self._entries = header.metadata, header.entries
        self.hashes = None if hashes is None else dict(zip(header.entries, hashes, strict=True))
        if mapped:
            self._mapping = np.frombuffer(mmap.mmap(fd, size_bytes, prot=mmap.PROT_READ), np.uint8)
        self._fd = fd  # ours to close only from here on: a failed check leaves it to the caller

    def names(self) -> tuple[str, ...]:
        """All tensors, in file order."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> TensorEntry:
        """The dtype tag, shape, offset in the file, and bytes of a tensor."""
        if name not in self._entries:
            raise FormatError(f"{self.path} has no tensor {name!r}{near(name, self._entries)}")
        return self._entries[name]

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """A whole tensor, read-only. BF16 comes as uint16 and the F8 types and BOOL as uint8 (`entry` has the tag)."""
        return self._read(self.entry(name), None)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray[Any, Any]:
        """Rows `begin`…`end` of the first dimension, read-only, without touching the others."""
        return self._read(self.entry(name), self._range(name, begin, end))

    def read_into(self, name: str, out: np.ndarray[Any, Any]) -> None:
        """Fill `out` (writable, contiguous, of the tensor's size in bytes) with a tensor, as for memory on huge pages."""
        entry = self.entry(name)
        if out.nbytes != entry.nbytes or not out.flags.c_contiguous or not out.flags.writeable:
            raise ShapeError(f"{self.path}: {name!r} needs a writable contiguous array of {entry.nbytes} bytes, got {out.nbytes}")
        self._fill(out, entry.offset)

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[np.ndarray[Any, Any]]:
        """The tensor's bytes, piece by piece, in one reused buffer."""
        entry = self.entry(name)
        buffer = np.empty(min(chunk_bytes, entry.nbytes), np.uint8)
        for done in range(0, entry.nbytes, chunk_bytes):
            piece = buffer[: min(chunk_bytes, entry.nbytes - done)]
            self._fill(piece, entry.offset + done)
            yield piece

    def hash(self, name: str) -> str:
        """SHA-256 hex of a tensor as it lies in the file (its name, dtype and shape bound in)."""
        entry = self.entry(name)
        hasher = tensor_hasher(name, entry.dtype, entry.shape)
        for piece in self.chunks(name):
            hasher.update(piece.data)
        return hasher.hexdigest()

    def check(self, name: str) -> None:
        """Hold a tensor of a sealed file against its hash.

        Raises:
            IntegrityError: the bytes are not those that were sealed.
        """
        if self.hashes is None:
            raise FormatError(f"{self.path} is a plain safetensors file: it states no hashes")
        found = self.hash(name)
        if found != self.hashes[name]:
            offset = self._entries[name].offset
            raise IntegrityError(f"{self.path}: tensor {name!r} at byte {offset}: expected sha256 {self.hashes[name]}, got {found}")

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _range(self, name: str, begin: int, end: int) -> tuple[int, int]:
        shape = self.entry(name).shape
        if not shape or not 0 <= begin <= end <= shape[0]:
            raise ShapeError(f"{self.path}: rows {begin}…{end} of {name!r} with shape {list(shape)}")
        return begin, end

    def _read(self, entry: TensorEntry, rows: tuple[int, int] | None) -> np.ndarray[Any, Any]:
        shape, offset = entry.shape, entry.offset
        if rows is not None:
            offset += rows[0] * (entry.nbytes // shape[0])
            shape = (rows[1] - rows[0], *shape[1:])
        dtype = DTYPES[entry.dtype]
        if self._mapping is not None and offset % dtype.itemsize == 0:
            return self._mapping[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        out = self._empty(shape, dtype)
        self._fill(out, offset)
        out.flags.writeable = False
        return out

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        if self._memory is None:
            return np.empty(shape, dtype)
        return self._memory.empty(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)

    def _fill(self, out: np.ndarray[Any, Any], offset: int) -> None:
        if self._fd < 0:
            raise StorageError(errno.EBADF, "the container is closed", str(self.path))
        if out.nbytes:
            read_exactly(self._fd, out.reshape(-1).data.cast("B"), offset, str(self.path), self.size_bytes)


def open_container(path: str | Path, limits: Limits = DEFAULT_LIMITS, memory: Memory | None = None, *, mapped: bool = False) -> Container:
    """Open a safetensors file; kbit's own files are held against their seal at once (payloads by `Container.check`).

    Tensors are read into `memory`, by default into ordinary arrays. With `mapped` they are the file's own pages, read by the system as they
    are used, even after the container is closed: for a file that nobody writes to meanwhile.

    Raises:
        FormatError: it is not a safetensors file without holes; the message names file, field and offset.
        LimitError: beyond `limits`.
        IntegrityError: a kbit file whose header was altered.
        StorageError: the disk said no.
    """
    path = Path(path)
    with open_regular(path) as file:
        fd = os.dup(file.fileno())
    try:
        with storage_errors(path, "read the header"):
            return Container(path, fd, os.fstat(fd).st_size, limits, memory, mapped=mapped)
    except BaseException:
        os.close(fd)
        raise


def _read_head(fd: int, size_bytes: int, path: str, limits: Limits) -> bytes:
    """Length field and header, after the checks that need no parsing."""
    if size_bytes < 10:
        raise FormatError(f"{path}: expected at least 10 bytes (a length and an empty header), got {size_bytes}")
    start = os.pread(fd, 8, 0)
    length = int.from_bytes(start, "little")
    if not 2 <= length <= size_bytes - 8:
        hint = next((f": it looks like {what}" for magic, what in _FOREIGN.items() if start.startswith(magic)), "")
        raise FormatError(f"{path}: header length at byte 0: expected 2…{size_bytes - 8} (the file's size less 8), got {length}{hint}")
    if length > limits.header_bytes:
        raise LimitError(f"{path}: header length at byte 0: expected at most {limits.header_bytes} (Limits.header_bytes), got {length}")
    head = os.pread(fd, 8 + length, 0)
    if len(head) != 8 + length:
        raise IntegrityError(f"{path}: expected {8 + length} bytes at byte 0, got {len(head)}: the file shrank")
    return head
