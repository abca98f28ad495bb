"""Rows of a study in SQLite: a row that `put` has returned from is on the disk, whatever happens next.

Write-ahead log with ``synchronous=FULL``: each row is one transaction, fsynced before it is acknowledged. Two tables, ``quality`` and
``speed``, with typed (STRICT) columns, keyed by the cell's digest; the view ``cells`` joins them: a quality row with the speed of the
same bytes, once for each number of threads.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kbit.core.errors import FormatError, StorageError
from kbit.core.files import lock
from kbit.study.columns import COMMON, QUALITY, SPEED, SQL_TYPES

__all__ = ["StudyStore"]

_VERSION = 2
#: version → columns that the next one added, null in rows of before
_ADDED = {1: {"quality": ("mask_bytes", "outliers_bytes", "low_rank_bytes")}}
_TABLES = {"quality": COMMON | QUALITY, "speed": COMMON | SPEED}
_ORDER = "family, params, model, context, bits, scheme, seed, key"
#: column of a quality row → column of the speed rows that belong to it
_MATCH = {"model_sha256": "model_sha256", "speed_scheme": "scheme", "embedding": "embedding", "head": "head"}


class StudyStore:
    """A study's file; a context manager.

    Args:
        path: the file; made where it is not there, and one of an earlier version brought to this one.
        reading: only read, beside a study that may be running; else one process at a time holds the file.

    Raises:
        FormatError: the file is no study, or one of a later version.
        StorageError: another process has it, there is none to read, or the disk said no.
    """

    def __init__(self, path: str | Path, *, reading: bool = False) -> None:
        self.path, self._reading = Path(path), reading
        self._lock: AbstractContextManager[None] = nullcontext() if reading else lock(self.path.with_name(self.path.name + ".lock"))

    def __enter__(self) -> Self:
        self._lock.__enter__()
        try:
            with _sqlite_errors(self.path):
                mode = "ro" if self._reading else "rwc"
                self._database = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None)
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
        if not self._reading and version == 0 and run("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            run("PRAGMA journal_mode = WAL")
            run("BEGIN IMMEDIATE")
            for table, columns in _TABLES.items():
                run(f"CREATE TABLE {table} ({', '.join(_column(name, kind) for name, kind in columns.items())}) STRICT")
            run(f"CREATE VIEW cells AS {_view()}")
            run(f"PRAGMA user_version = {_VERSION}")
            run("COMMIT")
        elif version in _ADDED:
            if not self._reading:
                self._upgrade(version)
        elif version != _VERSION:
            raise FormatError(f"{self.path}: expected a study of version {_VERSION}, got a database of version {version}")
        run("PRAGMA synchronous = FULL")

    def _upgrade(self, version: int) -> None:
        """Brings a study of an earlier version to this one, its rows as they are, in one transaction."""
        run = self._database.execute
        run("BEGIN IMMEDIATE")
        run("DROP VIEW cells")
        for step in range(version, _VERSION):
            for table, names in _ADDED[step].items():
                for name in names:
                    run(f"ALTER TABLE {table} ADD COLUMN {_column(name, _TABLES[table][name])}")
        run(f"CREATE VIEW cells AS {_view()}")
        run(f"PRAGMA user_version = {_VERSION}")
        run("COMMIT")

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

    def rows(self, keys: Iterable[str] | None = None, speed_keys: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Joined rows in order of model, scheme and threads.

        Args:
            keys: of the quality cells wanted; None for all.
            speed_keys: of the speed cells that may be joined; None for all.
        """
        wanted, joined = (None if given is None else set(given) for given in (keys, speed_keys))
        with _sqlite_errors(self.path):
            quality = self._database.execute(
                "SELECT * FROM quality ORDER BY family, params, model, context, bits, scheme, seed, key"
            ).fetchall()
            speed = self._database.execute("SELECT * FROM speed WHERE status = 'ok' ORDER BY threads, key").fetchall()
        of_layout: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in speed:
            if joined is None or row["key"] in joined:
                figures = {name: row[name] for name in ("machine", *SPEED)}
                of_layout.setdefault(tuple(row[column] for column in _MATCH.values()), []).append(figures)
        nothing = [dict.fromkeys(SPEED)]
        return [
            dict(row) | figures
            for row in quality
            if wanted is None or row["key"] in wanted
            for figures in of_layout.get(tuple(row[column] for column in _MATCH), nothing)
        ]


def _column(name: str, kind: type) -> str:
    needed = " NOT NULL" if name in ("key", "status", "family", "model", "params", "scheme", "model_sha256") else ""
    return f"{name} {SQL_TYPES[kind]}{needed}{' PRIMARY KEY' if name == 'key' else ''}"


def _view() -> str:
    speed = [f"speed.{name} AS {name}" for name in SPEED]
    quality = [f"quality.{name} AS {name}" for name in COMMON | QUALITY if name != "machine"]
    machine = "coalesce(speed.machine, quality.machine) AS machine"
    match = " AND ".join(f"quality.{ours} = speed.{theirs}" for ours, theirs in _MATCH.items())
    return f"SELECT {', '.join((*quality, machine, *speed))} FROM quality LEFT JOIN speed ON {match} AND speed.status = 'ok'"


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError(f"{path}: {error}") from None
        raise FormatError(f"{path}: expected a study: {error}") from None
