"""Files that are whole or absent: atomic writes, strict JSON, an advisory lock, and safe opening of files that others made.

    atomic_write      temporary file beside the target → write → fsync → rename over it → fsync the folder
    atomic_directory  temporary folder beside the target → fill → fsync all of it → rename, or exchange with the older one
    read_json         size cap, then `strict_json`; write_json is atomic and writes only what read_json reads
    lock              flock on a file: the kernel lets go of it when its holder dies, so no lock is ever stale
    open_regular      never blocks on a FIFO, never reads a device
    resolve_inside    a name read from a file never leads out of its folder

Whoever is killed leaves the old file or the new one, and at most a temporary name that the next writer of the same target sweeps
away. `OSError` becomes `StorageError` (same errno) that names the path.
"""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from kbit.core import strict_json, temporary
from kbit.core.errors import FormatError, LimitError, StorageError

__all__ = [
    "MAX_JSON_BYTES",
    "atomic_directory",
    "atomic_write",
    "lock",
    "open_regular",
    "read_json",
    "resolve_inside",
    "storage_errors",
    "write_json",
]

#: largest JSON file read unless the caller allows more
MAX_JSON_BYTES = 16 << 20


@contextmanager
def storage_errors(path: str | Path, doing: str) -> Iterator[None]:
    """Turns an `OSError` of the disk into a `StorageError` with the same errno that names the file.

    An error that already names another file keeps that name; errors of the network pass as they are.
    """
    try:
        yield
    except (StorageError, ConnectionError, TimeoutError):
        raise
    except OSError as error:
        named = error.filename if isinstance(error.filename, str | bytes) else str(path)
        raise StorageError(error.errno or errno.EIO, f"cannot {doing}: {error.strerror or error}", os.fsdecode(named)) from error


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends, and leaves `path` as it was when the block raises.

    A symlink at `path` is replaced; what it points to stays. Mode bits of an older file are kept.

    Raises:
        StorageError: the disk said no, or `path` is there and is no file. (When only the last step fails, the fsync of the folder,
            the new file already stands at `path`, whole, but a power cut may bring the old one back.)
    """
    path = Path(path)
    with storage_errors(path, "write"):
        mode = _mode_of_file(path)
        part, descriptor = temporary.create_file(path)
        try:
            with os.fdopen(descriptor, "w+b", closefd=False) as file:
                yield file
            if mode is not None:
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        temporary.sync_directory(path.parent)


@contextmanager
def atomic_directory(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder that becomes `path`, with all that the block puts there, when the block ends without an error.

    With `overwrite` the older folder stands untouched until the new one is on disk; then the two change names in one step
    (`renameat2`), and the older one is removed. On a file system that cannot exchange names there are two renames; a kill exactly
    between them leaves the older folder under a temporary name, and the next call puts it back.
    `path` must not be a mount point, for the folder is made beside it.

    Raises:
        StorageError: `path` is there, is not empty and `overwrite` is False; it is no folder; or the disk said no.
    """
    with storage_errors(path, "write the folder"):
        path = Path(os.path.realpath(path))
        if not path.name:
            raise StorageError(errno.EBUSY, "expected a folder below the root", str(path))
        temporary.put_back(path)
        _check_vacant(path, overwrite)
        part, descriptor = temporary.create_directory(path)
        try:
            yield part
            temporary.sync_tree(part)
            _check_vacant(path, overwrite)  # somebody may have filled it meanwhile
            if path.exists() and any(path.iterdir()):
                temporary.replace_directory(part, path)
            else:
                part.rename(path)  # over an empty folder too
        finally:
            os.close(descriptor)
            shutil.rmtree(part, ignore_errors=True)  # the unfinished folder or, after an exchange, the older one
        temporary.sync_directory(path.parent)


def write_json(path: str | Path, value: Any, *, indent: int | None = 2, sort_keys: bool = False) -> None:
    """Writes `value` atomically as UTF-8 JSON with a final newline.

    Raises:
        FormatError: the value holds NaN, an infinite number, a key that is not a text, or what JSON cannot hold.
        StorageError: the disk said no.
    """
    data = strict_json.dump_json(value, str(path), indent=indent, sort_keys=sort_keys)
    with atomic_write(path) as file:
        file.write(data)


def read_json(path: str | Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON file.

    Raises:
        FormatError: not a regular file, or not strict JSON (see `strict_json.parse_json`).
        LimitError: more than `max_bytes`.
        StorageError: it is missing or unreadable.
    """
    with open_regular(path) as file, storage_errors(path, "read"):
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise LimitError(f"{path}: expected at most {max_bytes} bytes of JSON, got more")
    return strict_json.parse_json(data, str(path))


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Holds the lock file `path` for the length of the block; the file is removed afterwards.

    Raises:
        StorageError: another holder has it (the message names its process), or the disk said no.
    """
    path = Path(path)
    with storage_errors(path, "lock"):
        descriptor = _take_lock(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while still held, so that nobody locks a name that is about to vanish
        os.close(descriptor)


def open_regular(path: str | Path, *, follow_symlinks: bool = True) -> BufferedReader:
    """`path` opened for reading, if it is a regular file; never blocks.

    Raises:
        FormatError: it is a folder, FIFO, socket, device, or (without `follow_symlinks`) a symlink.
        StorageError: it is missing or unreadable.
    """
    path = Path(path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow_symlinks else os.O_NOFOLLOW)
    with storage_errors(path, "open"):
        _check_regular(path, path.stat(follow_symlinks=follow_symlinks).st_mode)  # to open a device may already move it
        descriptor = os.open(path, flags)
        try:
            _check_regular(path, os.fstat(descriptor).st_mode)  # it may have changed since
        except BaseException:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "rb")


def resolve_inside(root: str | Path, name: str, *, within: str | Path | None = None) -> Path:
    """The path of `name`, a relative name read from a file in the folder `root`, with symlinks resolved.

    Symlinks may not leave `within`, which is `root` unless told otherwise (a hub cache links from a snapshot to its blobs).

    Raises:
        FormatError: the name is absolute, empty, has `..`, a backslash or NUL in it, or a symlink leads outside.
    """
    if not isinstance(name, str) or not name or name.startswith("/") or {"..", ""} & set(name.split("/")) or {"\0", "\\"} & set(name):
        raise FormatError(f"expected the relative name of a file inside {root}, got {str(name)[:80]!r}")
    bound = Path(os.path.realpath(root if within is None else within))
    try:
        target = Path(os.path.realpath(Path(root) / name))
    except (OSError, ValueError) as error:
        raise FormatError(f"expected the relative name of a file inside {root}, got {name[:80]!r}: {error}") from None
    if not target.is_relative_to(bound):
        raise FormatError(f"expected a file inside {bound}, got {name[:80]!r}, which leads to {target}")
    return target


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a symlink"}
        raise FormatError(f"{path}: expected a regular file, got {kinds.get(stat.S_IFMT(mode), 'a device')}")


def _mode_of_file(path: Path) -> int | None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        return None
    if not stat.S_ISREG(mode):
        raise StorageError(errno.EINVAL, "expected a regular file or nothing to write over", str(path))
    return stat.S_IMODE(mode)


def _check_vacant(path: Path, overwrite: bool) -> None:
    if path.exists() and not path.is_dir():
        raise StorageError(errno.ENOTDIR, "expected a folder or nothing to write over", str(path))
    if not overwrite and path.exists() and any(path.iterdir()):
        raise StorageError(errno.ENOTEMPTY, "the folder is not empty and stays as it is (overwrite would replace it)", str(path))


def _take_lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                    return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f"process {holder}" if holder.isdecimal() else "another process"
            raise StorageError(errno.EAGAIN, f"held by {who}: one writer at a time", str(path)) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the last holder removed the name after it was opened here: take the new one
