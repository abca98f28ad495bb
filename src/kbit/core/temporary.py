"""Temporary names beside a target, and the steps that make a file or folder last under its own name.

A temporary entry is called ``.{target}.{12 hex digits}.kbit-tmp`` and its writer holds a flock on it. The kernel drops the lock
with the process, so whoever can take the lock has found the work of a dead writer, and may remove it.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["create_directory", "create_file", "exchange", "put_back", "replace_directory", "sync_directory", "sync_tree"]

_SUFFIX = ".kbit-tmp"
_OLDER = ".kbit-old"
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # fcntl.h
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def create_file(path: Path) -> tuple[Path, int]:
    """A new temporary file beside `path` and its held descriptor, open for reading and writing."""
    for temporary in _names(path):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        if _hold(descriptor, temporary):
            break
    return temporary, descriptor


def create_directory(path: Path) -> tuple[Path, int]:
    """A new temporary folder beside `path` and its held descriptor."""
    for temporary in _names(path):
        temporary.mkdir()
        with suppress(FileNotFoundError):  # swept between the two calls
            descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _hold(descriptor, temporary):
                break
    return temporary, descriptor


def _prefix(path: Path) -> str:
    # a target name of 255 bytes must leave room for token and suffix
    return f".{os.fsdecode(os.fsencode(path.name)[:200])}."


def _names(path: Path) -> Iterator[Path]:
    _sweep(path)
    while True:
        yield path.with_name(f"{_prefix(path)}{secrets.token_hex(6)}{_SUFFIX}")


def _hold(descriptor: int, path: Path) -> bool:
    """Locks a temporary entry just made; False when a sweeper got in between and took it for a dead one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return True
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return True  # a file system without locks: sweepers get none either, and remove nothing
        os.close(descriptor)
        raise
    os.close(descriptor)
    return False


def _sweep(path: Path) -> None:
    """Removes what dead writers of `path` left beside it."""
    for entry in path.parent.iterdir():
        token = entry.name.removeprefix(_prefix(path)).removesuffix(_SUFFIX)
        if entry.name != f"{_prefix(path)}{token}{_SUFFIX}" or len(token) != 12:
            continue
        with suppress(OSError):
            descriptor = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            finally:
                os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Fsync of a folder: its renames last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without fsync of folders
            raise
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Fsync of every file and folder below `root`, and of `root`."""
    for folder, _, names in os.walk(root):
        for name in names:
            entry = Path(folder, name)
            if stat.S_ISREG(entry.lstat().st_mode):
                descriptor = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        sync_directory(Path(folder))


def replace_directory(temporary: Path, path: Path) -> None:
    """Gives `temporary` the name `path`, whose older folder is then called `temporary`, or gone.

    On any error both are as they were.
    """
    if exchange(temporary, path):
        try:
            sync_directory(path.parent)  # before anybody removes the older one
        except BaseException:
            exchange(temporary, path)
            raise
        return
    older = path.with_name(f".{path.name}{_OLDER}")
    path.rename(older)
    try:
        temporary.rename(path)
        sync_directory(path.parent)
    except BaseException:
        if path.exists():
            path.rename(temporary)
        older.rename(path)
        raise
    shutil.rmtree(older, ignore_errors=True)


def put_back(path: Path) -> None:
    """Undoes what is left of an exchange in two renames that a kill cut short."""
    older = path.with_name(f".{path.name}{_OLDER}")
    if older.is_dir():
        if path.exists():
            shutil.rmtree(older)
        else:
            older.rename(path)


def exchange(first: Path, second: Path) -> bool:
    """Swaps two names in one step; False where kernel, C library or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(second))
