"""Rows of a study as CSV or Parquet, for whoever fits and plots."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kbit.core.errors import MissingExtraError, SchemeError
from kbit.core.files import atomic_write
from kbit.study.columns import COMMON, QUALITY, SPEED

__all__ = ["check_export", "export_rows"]

_COLUMNS = COMMON | QUALITY | SPEED


def check_export(path: str | Path) -> None:
    """Refuse a file that could not be written after hours of work.

    Raises:
        SchemeError: neither .csv nor .parquet. MissingExtraError: .parquet, and no pyarrow.
    """
    if Path(path).suffix not in (".csv", ".parquet"):
        raise SchemeError(f"expected a file to export to that ends in .csv or .parquet, got {path}")
    if Path(path).suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise MissingExtraError("pyarrow", "study") from None


def export_rows(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write rows, whole or not at all.

    Raises:
        SchemeError, MissingExtraError: as `check_export`. StorageError: the disk said no.
    """
    check_export(path)
    with atomic_write(path) as file:
        if Path(path).suffix == ".csv":
            text = io.StringIO(newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(["" if row.get(name) is None else row[name] for name in _COLUMNS] for row in rows)
            file.write(text.getvalue().encode("utf-8"))
        else:
            _write_parquet(rows, file)


def _write_parquet(rows: Sequence[Mapping[str, Any]], file: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in _COLUMNS.items()])
    table = pyarrow.Table.from_pylist([{name: row.get(name) for name in _COLUMNS} for row in rows], schema=schema)
    pyarrow.parquet.write_table(table, file)
