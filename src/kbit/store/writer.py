"""Writes a container slot by slot: tensors in any order, rows of a tensor from its start, with memory for one piece at a time.

All sizes are known before the first byte, so the header's room is reserved, each tensor has its place, and the header itself is written
last, over zeros: a `.partial` file cut short anywhere is no container. Then fsync, a full read-back against the hashes, and the rename
over the final name. Whoever is killed leaves the old file (or none) and a `.partial` that `resume` continues: a slot is trusted only when
its bytes hash to what the caller's journal says.

A failed fsync may have dropped pages that later reads still show, so it is never retried: the partial file is deleted.
"""

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from kbit.core.errors import DTypeError, FormatError, IntegrityError, ShapeError, StorageError
from kbit.core.files import storage_errors
from kbit.core.temporary import sync_directory
from kbit.store.container import CHUNK_BYTES, DEFAULT_LIMITS, open_container
from kbit.store.header import ALIGNMENT, DTYPES, TensorEntry, TensorSpec, build_header, near, scan_header
from kbit.store.reading import read_exactly
from kbit.store.seal import DIGEST_KEY, HASHES_KEY, ZERO_DIGEST, seal, tensor_hasher

__all__ = ["ContainerWriter", "file_order"]


def file_order(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Tensors sorted (stably) by the largest power of two up to 64 that divides their size, largest first.

    Containers have no holes, so this is what lets every tensor begin at a multiple of its own alignment.
    """
    return sorted(specs, key=lambda spec: -min(ALIGNMENT, spec.nbytes & -spec.nbytes))


class ContainerWriter:
    """Writes `path` by way of `path.partial`. Use as a context manager; leaving it without `finish` keeps the partial file.

    Args:
        path: the file to be; it is untouched until `finish` renames over it.
        specs: the tensors, in file order (`file_order` aligns them).
        metadata: string pairs; `finish` may change values as long as the header does not get longer.
        resume: continue an existing partial file of this very size, instead of writing over it.

    Raises:
        LimitError, FormatError: a reader would not take the header: too many tensors, a name with control characters, …
    """

    def __init__(self, path: str | Path, specs: Iterable[TensorSpec], metadata: Mapping[str, str], *, resume: bool = False) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.specs = tuple(specs)
        self._metadata = dict(metadata)
        self._fd = -1
        for spec in self.specs:
            _check_spec(spec)
        head = self._header(metadata, ["0" * 64] * len(self.specs))
        self._head_bytes = len(head)
        self.entries: dict[str, TensorEntry] = {}
        at = len(head)
        for spec in self.specs:
            if spec.name in self.entries:
                raise FormatError(f"tensor {spec.name!r} is listed twice")
            self.entries[spec.name] = TensorEntry(spec.dtype, spec.shape, at, spec.nbytes)
            at += spec.nbytes
        self.size_bytes = at
        # what no reader accepts is refused before the work, not after it
        scan_header(head, at - len(head), str(self.path), DEFAULT_LIMITS)
        self._progress: dict[str, tuple[int, Any]] = {}  # name → rows written, hasher so far
        self.hashes: dict[str, str] = {}
        self._fd = self._open(resume)

    def _header(self, metadata: Mapping[str, str], hashes: Iterable[str], length: int | None = None) -> bytes:
        sealed = {DIGEST_KEY: ZERO_DIGEST.decode(), HASHES_KEY: "".join(hashes)}
        return build_header(self.specs, {**sealed, **metadata}, length)

    def _open(self, resume: bool) -> int:
        with storage_errors(self.partial, "open"):
            fd = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                if not resume or os.fstat(fd).st_size != self.size_bytes:
                    os.ftruncate(fd, 0)
                    _reserve(fd, self.size_bytes)  # a full disk is found now, not after hours
                _write_all(fd, memoryview(bytes(8)), 0)  # no container until `finish` says so
            except BaseException:
                os.close(fd)
                raise
            return fd

    def write(self, name: str, array: np.ndarray[Any, Any]) -> str:
        """Write a whole tensor; returns its SHA-256 hex."""
        entry = self._entry(name)
        if array.shape != entry.shape:
            raise ShapeError(f"tensor {name!r}: expected shape {list(entry.shape)}, got {list(array.shape)}")
        self.write_rows(name, 0, array if entry.shape else array.reshape(1))
        return self.hashes[name]

    def write_rows(self, name: str, begin: int, rows: np.ndarray[Any, Any]) -> None:
        """Write rows `begin`… of a tensor; they come in order, and row 0 starts the tensor over.

        Raises:
            ShapeError, DTypeError: what the tensor's entry does not say.
            StorageError: the disk said no; the partial file stays for `resume`.
        """
        entry = self._entry(name)
        shape = entry.shape or (1,)
        if rows.dtype != DTYPES[entry.dtype]:
            raise DTypeError(f"tensor {name!r} of dtype {entry.dtype}: expected an array of {DTYPES[entry.dtype]}, got {rows.dtype}")
        done, hasher = (0, tensor_hasher(name, entry.dtype, entry.shape)) if begin == 0 else self._progress.get(name, (0, None))
        if begin != done or rows.shape[1:] != shape[1:] or begin + rows.shape[0] > shape[0]:
            raise ShapeError(
                f"tensor {name!r} of shape {list(shape)}: expected rows from {done} on, got shape {list(rows.shape)} from row {begin} on"
            )
        self.hashes.pop(name, None)
        data = np.ascontiguousarray(rows).reshape(-1).data.cast("B")
        with storage_errors(self.partial, f"write tensor {name!r}"):
            _write_all(self._fd, data, entry.offset + begin * (entry.nbytes // shape[0]))
        hasher.update(data)
        self._progress[name] = (begin + rows.shape[0], hasher)
        if begin + rows.shape[0] == shape[0]:
            self.hashes[name] = self._progress.pop(name)[1].hexdigest()

    def adopt(self, name: str, sha256: str) -> bool:
        """Take a tensor of an earlier run as written, if the bytes in its slot hash to `sha256`."""
        entry = self._entry(name)
        hasher = tensor_hasher(name, entry.dtype, entry.shape)
        with storage_errors(self.partial, f"read tensor {name!r}"):
            for done in range(0, entry.nbytes, CHUNK_BYTES):
                hasher.update(os.pread(self._fd, min(CHUNK_BYTES, entry.nbytes - done), entry.offset + done))
        if hasher.hexdigest() != sha256:
            return False
        self.hashes[name] = sha256
        return True

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """A tensor that was written or adopted, from the disk."""
        if name not in self.hashes:
            raise FormatError(f"{self.path}: tensor {name!r} was not written in full")
        entry = self._entry(name)
        array = np.empty(entry.shape or (1,), DTYPES[entry.dtype])
        view = array.reshape(-1).view(np.uint8).data
        with storage_errors(self.partial, f"read tensor {name!r}"):
            read_exactly(self._fd, view, entry.offset, str(self.partial), self.size_bytes)
        return array.reshape(entry.shape)

    def sync(self) -> None:
        """Bring everything written so far to the disk, so that a journal may speak of it."""
        try:
            with storage_errors(self.partial, "sync"):
                os.fsync(self._fd)
        except StorageError:
            self.partial.unlink(missing_ok=True)
            raise

    def finish(self, metadata: Mapping[str, str] | None = None, *, verify: bool = True) -> None:
        """Write the header, sync, read every byte back against its hash (`verify`), and rename over `path`.

        Raises:
            FormatError: a tensor was never written.
            IntegrityError: the disk gives back other bytes than were written; nothing is published.
            StorageError: the disk said no; the old file, if any, is as it was.
        """
        missing = [spec.name for spec in self.specs if spec.name not in self.hashes]
        if missing:
            raise FormatError(f"{self.path}: {len(missing)} tensors were never written in full, first {missing[0]!r}")
        hashes = [self.hashes[spec.name] for spec in self.specs]
        head = seal(self._header(self._metadata if metadata is None else metadata, hashes, self._head_bytes - 8))
        self.sync()  # the tensors reach the disk before the header that speaks for them
        with storage_errors(self.partial, "write the header"):
            _write_all(self._fd, memoryview(head), 0)
        self.sync()
        if verify:
            self._read_back(head)
        with storage_errors(self.path, "rename"):
            self.partial.replace(self.path)
            sync_directory(self.path.parent)
        self.close()

    def _read_back(self, head: bytes) -> None:
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, as far as the kernel lets us
        if os.pread(self._fd, len(head), 0) != head:
            raise IntegrityError(f"{self.partial}: the header read back differs from the one written")
        with open_container(self.partial) as container:
            for name in container.names():
                container.check(name)

    def close(self) -> None:
        """Close the partial file and leave it for `resume`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _entry(self, name: str) -> TensorEntry:
        if self._fd < 0:
            raise StorageError(errno.EBADF, "the writer is closed", str(self.partial))
        if name not in self.entries:
            raise FormatError(f"{self.path} has no slot for tensor {name!r}{near(name, self.entries)}")
        return self.entries[name]


def _check_spec(spec: TensorSpec) -> None:
    if spec.dtype not in DTYPES:
        raise DTypeError(f"tensor {spec.name!r}: expected a dtype of {', '.join(DTYPES)}, got {spec.dtype!r}")
    if spec.nbytes == 0:
        raise ShapeError(f"tensor {spec.name!r}: a tensor of shape {list(spec.shape)} holds nothing and cannot be stored")


def _reserve(fd: int, size_bytes: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(fd, size_bytes)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    """`pwrite` may take less than it is given."""
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count
