import csv
from pathlib import Path

import pytest
from tests.study.test_store import ROW

from kbit.core.errors import SchemeError
from kbit.study.export import export_rows

ROWS = [{**ROW, "kl_mean": 0.1}, {**ROW, "key": "k1", "status": "failed", "reason": 'one, two\n"three"', "perplexity": None}]


def test_csv(tmp_path: Path) -> None:
    export_rows(ROWS, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["key"], row["kl_mean"], row["perplexity"]) for row in found] == [("k0", "0.1", "3.5"), ("k1", "", "")]
    assert found[1]["reason"] == ROWS[1]["reason"]


def test_parquet_is_typed(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export_rows(ROWS, tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert str(table.schema.field("kl_mean").type) == "double"
    assert str(table.schema.field("params").type) == "int64"
    found = table.to_pylist()
    assert [row["perplexity"] for row in found] == [3.5, None]
    assert found[0]["accuracy"] is None


def test_refuses_other_endings(tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match=r"\.csv or \.parquet"):
        export_rows(ROWS, tmp_path / "rows.xlsx")
