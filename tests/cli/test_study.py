"""`kbit study`: rows, forecast and failures reach both forms of the output."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.cli.reference import KEYS

PLAN = """
name = "tiny"
[text]
paths = ["text.txt"]
dataset = "sea"
windows = 2
contexts = [32]
[[models]]
path = "{model}"
[[schemes]]
schemes = ["int4:g32"]
"""


@pytest.fixture
def plan(tiny_model: Path, tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("The sea was calm, and the old captain slept. " * 30)
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format(model=tiny_model))
    return path


def test_a_study_from_forecast_to_rows(kbit: Callable, plan: Path, tmp_path: Path) -> None:
    forecast = kbit("study", plan, "--dry-run", "--json")
    assert forecast.code == 0, forecast.err
    assert (forecast.json["cells"], forecast.json["missing"]) == (2, 2)
    assert not (tmp_path / "plan.db").exists()
    called = kbit("study", plan, "--workers", 1, "--export", tmp_path / "rows.csv", "--json")
    assert called.code == 0, called.err
    assert set(called.json) == set(KEYS["study"].split())
    assert [row["scheme"] for row in called.json["rows"]] == ["int4:g32", "16"]
    assert (called.json["measured"], called.json["failed"]) == (2, 0)
    assert (tmp_path / "rows.csv").read_text().count("\n") == 3
    again = kbit("study", plan, "--workers", 1)
    assert again.code == 0, again.err
    assert "2 rows in" in again.out
    assert "0 cells measured" in again.out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("int4:g32", "itn4:g32", "schemes[0].schemes: unknown grid 'itn'"),
        ("windows = 2", "windows = 2000", "failed: "),
        ("dataset", "datset", "text.dataset is missing"),
    ],
)
def test_what_is_wrong_is_named(kbit: Callable, plan: Path, old: str, new: str, words: str) -> None:
    plan.write_text(plan.read_text().replace(old, new))
    called = kbit("study", plan, "--workers", 1)
    assert words in called.out + called.err


def test_exports_must_be_tables(kbit: Callable, plan: Path) -> None:
    called = kbit("study", plan, "--export", "rows.json")
    assert called.code == 1
    assert ".csv or .parquet" in called.err
