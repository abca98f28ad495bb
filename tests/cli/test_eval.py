"""`kbit eval`: the figures of the evaluation reach both forms of the output."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.cli.eval import books
from kbit.cli.reference import KEYS

SHORT = ("--context", 128, "--limit-tokens", 512)


def test_an_original_adds_divergence(kbit: Callable, packed_model: Path, tiny_model: Path) -> None:
    called = kbit("eval", packed_model, "--against", tiny_model, *SHORT, "--json")
    assert called.code == 0, called.err
    facts = called.json
    assert set(facts) == set(KEYS["eval"].split())
    assert facts["tokens"] == 512
    assert facts["protocol"]["context"] == facts["protocol"]["stride"] == 128
    assert 0 < facts["kl_median"] <= facts["kl_p99"] <= facts["kl_max"] < 1
    assert 0.5 < facts["top1_agreement"] <= 1
    assert facts["perplexity_ratio"] == pytest.approx(facts["perplexity"] / facts["reference_perplexity"])
    low, high = facts["intervals"]["perplexity"]
    assert low < facts["perplexity"] < high
    assert facts["file_bytes"] == (packed_model / "model.safetensors").stat().st_size


def test_without_an_original_what_needs_one_is_null(kbit: Callable, packed_model: Path) -> None:
    facts = kbit("eval", packed_model, *SHORT, "--json").json
    assert set(facts) == set(KEYS["eval"].split())
    assert {key for key, value in facts.items() if value is None} == {
        "kl_mean", "kl_median", "kl_p99", "kl_p999", "kl_max", "top1_agreement", "perplexity_ratio", "reference_perplexity",
    }  # fmt: skip


def test_own_text_and_people(kbit: Callable, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The sea was calm. " * 60)
    called = kbit("eval", tiny_model, "--text", tmp_path / "a.txt", "--context", 64, "--stride", 32)
    assert called.code == 0, called.err
    assert called.out.splitlines()[0].startswith("perplexity ")
    assert "stride 32" in called.out
    assert "KL" not in called.out


def test_embedded_text_is_eight_books() -> None:
    files = sorted(books().glob("*.txt"))
    assert len(files) == 8
    assert sum(file.stat().st_size for file in files) <= 60_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--text", "nowhere.txt"), "nowhere.txt"),
        (("--context", 4096), "positions"),
        (("--mode", "slow"), "fast"),
        (("--stride", 1000), "stride"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: tuple, words: str, kbit: Callable, tiny_model: Path) -> None:
    called = kbit("eval", tiny_model, *arguments)
    assert called.code == 1
    assert words in called.err
    assert len(called.err.splitlines()) == 1
