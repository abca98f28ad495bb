"""Tables on disk to rows: CSV, Parquet (with pyarrow), and the SQLite file that a study keeps."""

import csv
import io
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from kbit.core.errors import FormatError, LimitError, MissingExtraError
from kbit.core.files import atomic_write, open_regular, storage_errors
from kbit.core.shown import shown
from kbit.study.rows import NEEDED, Row, check_rows

__all__ = ["MAX_BYTES", "read_rows", "write_csv"]

#: larger tables are refused: a row has some hundred bytes
MAX_BYTES = 256 << 20
_SQLITE = (".sqlite", ".sqlite3", ".db")


def read_rows(path: str | Path, *, measured: bool = True) -> tuple[Row, ...]:
    """Rows of a table.

    Args:
        path: ``.csv``, ``.parquet``, a study's ``.sqlite``, or a folder that holds one of them.
        measured: False for rows that are to be predicted: see `kbit.study.rows.check_rows`.

    Raises:
        StorageError: the file cannot be read.
        FormatError: no table, a missing column, or a cell twice. LimitError: a file beyond `MAX_BYTES`.
        NumericsError: a value out of its range, named by file, row and field.
        MissingExtraError: a Parquet file, and no pyarrow.
    """
    path = _table_in(Path(path))
    if path.suffix == ".parquet":
        columns, records = _parquet(path)
        return check_rows(records, columns, str(path), measured=measured, first=1)
    if path.suffix in _SQLITE:
        columns, records = _sqlite(path)
        return check_rows(records, columns, str(path), measured=measured, first=1)
    columns, records = _csv(path)
    return check_rows(records, columns, str(path), measured=measured)


def write_csv(path: str | Path, rows: Iterable[Row]) -> None:
    """Rows as a CSV file that `read_rows` reads, written whole or not at all."""
    rows = tuple(rows)
    extras = sorted({name for row in rows for name in row.extra})
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*NEEDED, *extras])
    for row in rows:
        needed = [getattr(row, name) for name in NEEDED]
        writer.writerow(["" if value is None else value for value in (*needed, *(row.extra.get(name) for name in extras))])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode("utf-8"))


def _table_in(path: Path) -> Path:
    """The table itself; of a folder, the one it holds."""
    if not path.is_dir():
        return path
    found = [file for suffix in (*_SQLITE, ".parquet", ".csv") for file in sorted(path.glob(f"*{suffix}"))]
    if not found:
        raise FormatError(f"{path}: expected a folder with a study's rows (.sqlite, .parquet or .csv), got none")
    return found[0]


def _csv(path: Path) -> tuple[Sequence[str], Sequence[Mapping[str, Any]]]:
    with open_regular(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise LimitError(f"{path}: expected at most {MAX_BYTES} bytes of rows")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected UTF-8, got byte 0x{data[error.start]:02x} at offset {error.start}") from None
    if "\0" in text:
        raise FormatError(f"{path}: expected a table in text, got a zero byte at offset {text.index(chr(0))}")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = tuple(reader.fieldnames or ())
        records = list(reader)
    except csv.Error as error:
        raise FormatError(f"{path}: line {reader.line_num}: expected CSV: {error}") from None
    twice = {name for name in columns if columns.count(name) > 1}
    if twice:
        raise FormatError(f"{path}: column {shown(sorted(twice)[0])} is there twice")
    for index, record in enumerate(records, 2):
        if None in record or None in record.values():
            raise FormatError(f"{path}: row {index}: expected {len(columns)} fields, got {'more' if None in record else 'fewer'}")
    return columns, records


def _parquet(path: Path) -> tuple[Sequence[str], Sequence[Mapping[str, Any]]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtraError("pyarrow", "study") from None
    with open_regular(path) as file:
        try:
            found = ParquetFile(file)
            if found.metadata.num_rows > MAX_BYTES // 64:
                raise LimitError(f"{path}: expected at most {MAX_BYTES // 64} rows, got {found.metadata.num_rows}")
            table = found.read()
        except (ArrowException, OSError, ValueError) as error:
            raise FormatError(f"{path}: expected a Parquet file: {error}") from None
    return tuple(table.column_names), table.to_pylist()


def _sqlite(path: Path) -> tuple[Sequence[str], Sequence[Mapping[str, Any]]]:
    """The first table of the database that has all needed columns."""
    with open_regular(path) as file:
        if file.read(16) != b"SQLite format 3\0":
            raise FormatError(f"{path}: expected an SQLite database")
    with storage_errors(path, "read"):
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
                database.row_factory = sqlite3.Row
                return _rows_of(database, path)
        except sqlite3.Error as error:
            raise FormatError(f"{path}: expected a study's rows: {error}") from None


def _rows_of(database: sqlite3.Connection, path: Path) -> tuple[Sequence[str], Sequence[Mapping[str, Any]]]:
    tables = [str(name) for (name,) in database.execute("select name from sqlite_master where type in ('table', 'view') order by name")]
    for table in tables:
        quoted = '"' + table.replace('"', '""') + '"'
        columns = [str(entry["name"]) for entry in database.execute(f"pragma table_info({quoted})")]
        if set(NEEDED) <= set(columns):
            return columns, [dict(record) for record in database.execute(f"select * from {quoted}")]
    raise FormatError(f"{path}: expected a table with the columns {', '.join(NEEDED)}, got the tables {', '.join(tables) or 'none'}")
