"""Rows are read whole or refused by file, row and field."""

import math
import sqlite3
from pathlib import Path

import pytest

from kbit.core.errors import FormatError, KbitError, NumericsError, StorageError
from kbit.study.rows import NEEDED, Row, check_rows
from kbit.study.tables import read_rows, write_csv

GOOD = dict(zip(NEEDED, ("opt", "125000000", "gptq", "4", "-1", "4", "wikitext2", "2048", "31.12"), strict=True))


def _csv(path: Path, *records: dict[str, str], columns: tuple[str, ...] = NEEDED) -> Path:
    lines = [",".join(columns), *(",".join(record.get(name, "") for name in columns) for record in records)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_published_rows_are_read(published: tuple[Row, ...]) -> None:
    assert len(published) == 109
    first = published[0]
    assert (first.family, first.params, first.is_original, first.perplexity) == ("opt", 125_000_000, True, 27.65)
    assert {row.precision for row in published if row.family == "bloom" and row.params > 1e11} >= {"gptq 2 g64", "rtn 3", "none 16"}


@pytest.mark.parametrize("name", NEEDED)
def test_missing_column_is_named(name: str, tmp_path: Path) -> None:
    path = _csv(tmp_path / "rows.csv", GOOD, columns=tuple(column for column in NEEDED if column != name))
    with pytest.raises(FormatError, match=rf"rows\.csv.*'{name}'"):
        read_rows(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("perplexity", "nan"), ("perplexity", "0"), ("perplexity", "-3"), ("perplexity", "inf"), ("perplexity", ""), ("perplexity", "abc"),
        ("params", "0"), ("params", "1e999"), ("bits", "0"), ("bits", "400"), ("bpw", "nan"), ("context", "-1"), ("group_size", "0"),
        ("group_size", "1.5"), ("group_size", "-2"),
    ],
)  # fmt: skip
def test_bad_value_is_named_by_file_row_and_field(field: str, value: str, tmp_path: Path) -> None:
    path = _csv(tmp_path / "rows.csv", GOOD, GOOD | {"params": "7", field: value})
    with pytest.raises(NumericsError, match=rf"rows\.csv: row 3: {field}: expected"):
        read_rows(path)


def test_a_cell_twice_is_refused_and_names_both(tmp_path: Path) -> None:
    path = _csv(tmp_path / "rows.csv", GOOD, GOOD | {"perplexity": "32"})
    with pytest.raises(FormatError, match=r"row 3: .*already, in row 2"):
        read_rows(path)
    assert len(read_rows(path, measured=False)) == 2


def test_failed_cells_are_left_out(tmp_path: Path) -> None:
    columns = (*NEEDED, "status")
    failed = GOOD | {"status": "failed", "perplexity": "", "params": "7"}
    path = _csv(tmp_path / "rows.csv", GOOD | {"status": "ok"}, failed, columns=columns)
    assert [row.params for row in read_rows(path)] == [125_000_000]
    with pytest.raises(FormatError, match="at least one row"):
        read_rows(_csv(tmp_path / "none.csv", failed, columns=columns))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe\x00", b"family,params\n\x00,1\n", b'family,"params\n', b"family,family\n1,2\n", b"\x00" * 100, b"a,b\n1\n"]
)
def test_what_is_no_table_is_a_typed_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(data)
    with pytest.raises(FormatError, match="rows"):
        read_rows(path)


def test_short_and_long_records_are_refused(tmp_path: Path) -> None:
    path = _csv(tmp_path / "rows.csv", GOOD)
    path.write_text(path.read_text() + "opt,1\n")
    with pytest.raises(FormatError, match="row 3: expected 9 fields, got fewer"):
        read_rows(path)


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        read_rows(tmp_path / "nothing.csv")
    with pytest.raises(FormatError, match="expected a folder with a study's rows"):
        read_rows(tmp_path)


def test_csv_round_trip(published: tuple[Row, ...], tmp_path: Path) -> None:
    write_csv(tmp_path / "again.csv", published)
    again = read_rows(tmp_path / "again.csv")
    assert [row.cell for row in again] == [row.cell for row in published]
    assert [row.perplexity for row in again] == [row.perplexity for row in published]


def test_sqlite_and_parquet_hold_the_same_rows(published: tuple[Row, ...], tmp_path: Path) -> None:
    records = [[getattr(row, name) for name in NEEDED] for row in published]
    with sqlite3.connect(tmp_path / "study.sqlite") as database:
        database.execute("create table notes (text)")
        database.execute(f"create table cells ({', '.join(NEEDED)})")
        database.executemany(f"insert into cells values ({', '.join('?' * len(NEEDED))})", records)
    database.close()
    assert [row.cell for row in read_rows(tmp_path)] == [row.cell for row in published]
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({name: [record[at] for record in records] for at, name in enumerate(NEEDED)})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert [row.cell for row in read_rows(tmp_path / "rows.parquet")] == [row.cell for row in published]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(FormatError, match="expected a Parquet file"):
        read_rows(tmp_path / "broken.parquet")


def test_database_of_something_else(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("create table notes (text)")
    database.close()
    with pytest.raises(FormatError, match="got the tables notes"):
        read_rows(tmp_path / "other.db")
    (tmp_path / "fake.db").write_text("no database at all")
    with pytest.raises(FormatError, match="expected an SQLite database"):
        read_rows(tmp_path / "fake.db")


def test_extra_columns_are_numbers_where_known() -> None:
    record = GOOD | {"kl_mean": "0", "file_bytes": "1000", "note": "x", "scheme": "nf4:g64", "threads": ""}
    (row,) = check_rows([record], tuple(record), "here")
    assert dict(row.extra) == {"kl_mean": 0.0, "file_bytes": 1000.0, "note": "x", "scheme": "nf4:g64"}
    assert row.number("threads") is None
    assert row.number("note") is None
    with pytest.raises(KbitError, match="file_bytes"):
        check_rows([record | {"file_bytes": "0"}], tuple(record), "here")
    assert math.isclose(row.perplexity or 0, 31.12)
