"""Rows of a study in SQLite: a row that `put` has returned from is on the disk, whatever happens next.

Write-ahead log with ``synchronous=FULL``: each row is one transaction, fsynced before it is acknowledged. Two tables, ``quality`` and
``speed``, with typed (STRICT) columns, keyed by the cell's digest; the view ``cells`` joins them: a quality row with the speed of the
same bytes, once for each number of threads.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kbit.core.errors import FormatError, StorageError
from kbit.core.files import lock
from kbit.study.columns import COMMON, QUALITY, SPEED, SQL_TYPES

__all__ = ["StudyStore"]

_VERSION = 1
_TABLES = {"quality": COMMON | QUALITY, "speed": COMMON | SPEED}
#: what a joined row is matched by
_JOIN = "quality.model_sha256 = speed.model_sha256 AND quality.speed_scheme = speed.scheme AND speed.status = 'ok'"


class StudyStore:
    """A study's file, held by one process at a time; a context manager.

    Raises:
        FormatError: the file is no study, or one of another version.
        StorageError: another process has it, or the disk said no.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = lock(self.path.with_name(self.path.name + ".lock"))

    def __enter__(self) -> Self:
        self._lock.__enter__()
        try:
            with _sqlite_errors(self.path):
                self._database = sqlite3.connect(self.path, isolation_level=None)
                self._database.row_factory = sqlite3.Row
                self._open()
        except BaseException as error:
            self._lock.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()
        self._lock.__exit__(kind, error, trace)

    def _open(self) -> None:
        run = self._database.execute
        version = run("PRAGMA user_version").fetchone()[0]
        if version == 0 and run("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            run("PRAGMA journal_mode = WAL")
            run("BEGIN IMMEDIATE")
            for table, columns in _TABLES.items():
                run(f"CREATE TABLE {table} ({', '.join(_column(name, kind) for name, kind in columns.items())}) STRICT")
            run(f"CREATE VIEW cells AS {_view()}")
            run(f"PRAGMA user_version = {_VERSION}")
            run("COMMIT")
        elif version != _VERSION:
            raise FormatError(f"{self.path}: expected a study of version {_VERSION}, got a database of version {version}")
        run("PRAGMA synchronous = FULL")

    def put(self, table: str, row: Mapping[str, Any]) -> None:
        """Keeps a row in the place of one with its key; it is on the disk when this returns.

        Args:
            table: ``quality`` or ``speed``.
            row: values by column; what is missing is null.

        Raises:
            StorageError: the disk said no.
            FormatError: a column that is not known, or a value of another type.
        """
        unknown = [name for name in row if name not in _TABLES[table]]
        if unknown:
            raise FormatError(f"{self.path}: {table} has no column {unknown[0]!r}")
        names = ", ".join(row)
        places = ", ".join("?" * len(row))
        with _sqlite_errors(self.path):
            self._database.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({places})", tuple(row.values()))

    def status(self, table: str) -> dict[str, str]:
        """Key → status of the rows of a table."""
        with _sqlite_errors(self.path):
            return {row["key"]: row["status"] for row in self._database.execute(f"SELECT key, status FROM {table}")}

    def failures(self, keys: Iterable[str]) -> list[dict[str, Any]]:
        """Rows of speed cells without figures."""
        wanted = set(keys)
        with _sqlite_errors(self.path):
            return [dict(row) for row in self._database.execute("SELECT * FROM speed WHERE status != 'ok'") if row["key"] in wanted]

    def rows(self, keys: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Joined rows in order of model, scheme and threads; those of these quality cells only, where `keys` are given."""
        wanted = None if keys is None else set(keys)
        with _sqlite_errors(self.path):
            found = self._database.execute("SELECT * FROM cells ORDER BY family, params, model, context, bits, scheme, seed, threads")
            return [dict(row) for row in found if wanted is None or row["key"] in wanted]


def _column(name: str, kind: type) -> str:
    needed = " NOT NULL" if name in ("key", "status", "family", "model", "params", "scheme", "model_sha256") else ""
    return f"{name} {SQL_TYPES[kind]}{needed}{' PRIMARY KEY' if name == 'key' else ''}"


def _view() -> str:
    speed = [f"speed.{name} AS {name}" for name in SPEED]
    quality = [f"quality.{name} AS {name}" for name in COMMON | QUALITY]
    return f"SELECT {', '.join((*quality, *speed))} FROM quality LEFT JOIN speed ON {_JOIN}"


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError(f"{path}: {error}") from None
        raise FormatError(f"{path}: expected a study: {error}") from None
