r"""A journal of finished work, one line a step, each on the disk before the next step starts.

    line = 64 hex digits: SHA-256 of the line number and the JSON  +  " "  +  JSON  +  "\n"

The first line binds the journal to what made it (model digest, plan, configuration, versions). A kill can only tear the last line: it is
dropped. A bad line before others is damage, and nothing after it can be trusted, so it is refused.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kbit.core.errors import IntegrityError, ResumeMismatch, StorageError
from kbit.core.files import open_regular, storage_errors

__all__ = ["Journal"]

Record = Mapping[str, Any]


def _line(number: int, record: Record) -> bytes:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{_check(number, text)} {text}\n".encode()


def _check(number: int, text: str) -> str:
    return hashlib.sha256(f"{number} {text}".encode()).hexdigest()


class Journal:
    """An append-only list of JSON objects that survives a kill.

    Args:
        path: the file; made if absent.
        binding: what must be the same for the work to be continued.

    Raises:
        ResumeMismatch: the journal is of another model, plan, configuration or version; the message names the fields.
        IntegrityError: a line other than the last is damaged.
        StorageError: the disk said no.
    """

    def __init__(self, path: str | Path, binding: Record) -> None:
        self.path = Path(path)
        self.records: list[Record] = []
        self._fd = -1
        with storage_errors(self.path, "open the journal"):
            lines, good_bytes = self._load() if self.path.exists() else ([], 0)
            if lines:
                _check_binding(self.path, lines[0], binding)
                self.records = lines[1:]
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            os.ftruncate(self._fd, good_bytes)
            self._end, self._count = good_bytes, len(lines)
        if not lines:
            self._append(binding)

    def append(self, record: Record) -> None:
        """Add a record; when this returns, it is on the disk."""
        self._append(record)
        self.records.append(dict(record))

    def _append(self, record: Record) -> None:
        line = _line(self._count, record)
        try:
            with storage_errors(self.path, "write the journal"):
                data, at = line, self._end
                while data:
                    count = os.pwrite(self._fd, data, at)
                    data, at = data[count:], at + count
                os.fsync(self._fd)
        except StorageError:
            self.close()  # what the disk holds is now unknown: a new Journal reads it again
            raise
        self._end, self._count = at, self._count + 1

    def _load(self) -> tuple[list[Record], int]:
        with open_regular(self.path, follow_symlinks=False) as file:
            data = file.read()
        lines: list[Record] = []
        at = 0
        while at < len(data):
            end = data.find(b"\n", at)
            record = _parse(len(lines), data[at:end]) if end >= 0 else None
            if record is None:
                if end >= 0 and end + 1 < len(data):
                    raise IntegrityError(f"{self.path}: line {len(lines) + 1} at byte {at} is damaged; delete the file to start over")
                break  # torn by a kill
            lines.append(record)
            at = end + 1
        return lines, at

    def close(self) -> None:
        """Close the file; its records stay."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _parse(number: int, line: bytes) -> Record | None:
    try:
        check, text = line.decode().split(" ", 1)
        if check != _check(number, text):
            return None
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _check_binding(path: Path, found: Record, expected: Record) -> None:
    wanted = json.loads(json.dumps(expected))  # as JSON would give it back: tuples as lists
    if found == wanted:
        return
    parts = [
        f"{key} was {found.get(key)!r}, is {wanted.get(key)!r}" for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)
    ]
    raise ResumeMismatch(f"{path}: the unfinished work there is of another run: {parts}; delete the journal to start over")
