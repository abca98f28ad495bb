"""`kbit report`: one page from any table of rows."""

from collections.abc import Callable
from pathlib import Path

from tests.study.conftest import PUBLISHED

from kbit.cli.reference import KEYS


def test_page_and_json(kbit: Callable, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    facts = kbit("report", PUBLISHED, "-o", page, "--bootstrap", 0, "--title", "Rows", "--json").json
    assert set(facts) == set(KEYS["report"].split())
    assert (facts["rows"], facts["no_laws"], facts["laws"][0]["form"]) == (109, None, "power")
    assert "<h1>Rows</h1>" in page.read_text()
    again = kbit("report", PUBLISHED, "-o", page)
    assert again.code == 1
    assert "--overwrite" in again.err


def test_rows_that_allow_no_law(kbit: Callable, tmp_path: Path) -> None:
    lines = PUBLISHED.read_text().splitlines()
    few = tmp_path / "few.csv"
    few.write_text("\n".join([lines[0], lines[1], lines[8]]) + "\n")
    called = kbit("report", few, "-o", tmp_path / "page.html")
    assert called.code == 0
    assert "no laws" in called.out
