"""`kbit fit`: laws as JSON and as words, predictions in the order of the rows, and errors by file, row and field."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.study.conftest import PUBLISHED

from kbit.cli.reference import KEYS
from kbit.study.book import LawBook

HEADER = "family,params,method,bits,group_size,bpw,dataset,context"


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "wanted.csv"
    lines = [
        "opt,2700000000,gptq,3,-1,3,wikitext2,2048",
        "opt,2700000000,none,16,-1,16,wikitext2,2048",
        "opt,2700000000,gptq,4,-1,4,wikitext2,2048",
    ]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def test_json_and_law_file(kbit: Callable, wanted: Path, tmp_path: Path) -> None:
    called = kbit("fit", PUBLISHED, "--predict", wanted, "--bootstrap", 0, "-o", tmp_path / "law.json", "--json")
    facts = called.json
    assert set(facts) == set(KEYS["fit"].split())
    assert {law["form"] for law in facts["laws"]} == {"power", "ouyang", "gaussian", "kumar", "bit-level"}
    assert all({"form", "coefficients", "intervals", "heldout_error"} <= set(law) for law in facts["laws"])
    three, whole, four = facts["predictions"]
    assert whole["perplexity"] < four["perplexity"] < three["perplexity"]
    assert all(one["low"] < one["perplexity"] < one["high"] for one in facts["predictions"])
    assert LawBook.load(tmp_path / "law.json").provenance["rows"] == 109
    assert "outliers of power" in called.err


def test_words(kbit: Callable, wanted: Path) -> None:
    called = kbit("fit", PUBLISHED, "--form", "power", "--predict", wanted, "--bootstrap", 0)
    assert called.code == 0
    assert "gptq 4 inside" in called.out
    assert "opt 66,000,000,000 rtn 4" in called.out
    assert "90 % interval" in called.out


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (HEADER + "\n", "expected a column 'perplexity'"),
        (HEADER + ",perplexity\nopt,1,none,16,-1,16,t,9,nan\n", "row 2: perplexity: expected a number above 0, got 'nan'"),
        (HEADER + ",perplexity\nopt,1,none,16,-1,16,t,9,5\n", "expected at least 3 models"),
    ],
)
def test_bad_rows_are_one_line(kbit: Callable, rows: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(rows)
    called = kbit("fit", path)
    assert called.code == 1
    assert expected in called.err
    assert "bad.csv" in called.err
    assert called.out == ""


def test_unknown_form_is_said_before_the_work(kbit: Callable) -> None:
    called = kbit("fit", PUBLISHED, "--form", "kumarr")
    assert called.code == 1
    assert "did you mean 'kumar'" in called.err
