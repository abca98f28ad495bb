"""`kbit demo` on a reduced grid: every file, every row, the same words in JSON, terminal and report."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.cli.reference import KEYS
from kbit.cli.tradeoff import NAMES
from kbit.engine.beam_options import BeamOptions
from kbit.engine.generate_options import GenerateOptions
from kbit.store.folder import open_model

ROW_KEYS = {"scheme", "k", "bpw", "file_bytes", "perplexity", "kl_mean", "top1_agreement", "decode_tokens_per_s"}


@pytest.fixture(scope="module")
def called(kbit: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    pytest.importorskip("transformers").utils.logging.disable_progress_bar()
    from kbit.cli import experiment

    folder = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:  # what is asserted on stays: rows, files, words
        patch.setattr(experiment, "DECODE_TOKENS", 1)
        patch.setattr(experiment, "WRITING", GenerateOptions(max_tokens=12, beam=BeamOptions(beams=2)))
        return kbit("demo", "-o", folder, "--bits", "4,2", "--tokens", 1024, "--json"), folder


def test_rows_are_the_contracts(called: tuple) -> None:
    result, folder = called
    assert result.code == 0, result.err
    facts = result.json
    assert set(facts) == set(KEYS["demo"].split())
    rows = facts["rows"]
    assert all(set(row) >= ROW_KEYS for row in rows)
    assert [(row["grid"], row["k"]) for row in rows] == [("none", 16)] + [(grid, k) for grid in NAMES for k in (2, 4)]
    assert facts["report"] == str(folder / "report.html")


def test_more_bits_lose_less_and_weigh_more(called: tuple) -> None:
    rows = {(row["grid"], row["k"]): row for row in called[0].json["rows"]}
    original = rows["none", 16]
    assert (original["kl_mean"], original["top1_agreement"]) == (0.0, 1.0)
    for grid in NAMES:
        low, high = rows[grid, 2], rows[grid, 4]
        assert low["kl_mean"] > 2 * high["kl_mean"] > 0
        assert low["top1_agreement"] < high["top1_agreement"] < 1
        assert low["file_bytes"] < high["file_bytes"] < original["file_bytes"]
        assert low["bpw"] == pytest.approx(0.75 * 2.25 + 0.25 * 8.25, abs=0.02)
        assert low["kl_low"] < low["kl_mean"] < low["kl_high"]
        assert low["perplexity_low"] < low["perplexity"] < low["perplexity_high"]


def test_the_recommended_model_is_the_one_that_was_measured(called: tuple) -> None:
    result, folder = called
    facts = result.json
    row = next(row for row in facts["rows"] if row["scheme"] == facts["recommended"])
    with open_model(folder / "model") as model:
        assert model.manifest is not None
        assert model.manifest.plan.default.text == facts["recommended"]
        assert model.size_bytes == row["file_bytes"]


def test_people_see_table_chart_reason_and_both_texts(called: tuple) -> None:
    result, folder = called
    words = result.err  # stdout carries the JSON
    assert max(map(len, words[words.index("scheme ") : words.index("report ")].splitlines())) <= 80
    for row in result.json["rows"]:
        assert f"\n{row['scheme']} " in words
    assert "◆ recommended" in words
    assert "── 16 bits" in words
    assert words.count("It was a dark night") >= 3
    assert f"kbit run {folder / 'model'}" in words


def test_files(called: tuple) -> None:
    result, folder = called
    facts = result.json
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert facts["recommended"] in page
    assert "It was a dark night" in page
    assert (folder / "tradeoff.svg").read_text().startswith("<svg")
    with (folder / "rows.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["scheme"] for row in written] == [row["scheme"] for row in facts["rows"]]
    assert [float(row["kl_mean"]) for row in written] == [row["kl_mean"] for row in facts["rows"]]


@pytest.mark.parametrize("bits", ["", "1", "9", "a", "2,,3", "16"])
def test_other_bits_are_bad_usage(bits: str, kbit: Callable, tmp_path: Path) -> None:
    called = kbit("demo", "-o", tmp_path / "out", "--bits", bits)
    assert called.code == 2
    assert "--bits" in called.err
    assert not (tmp_path / "out").exists()
