"""`kbit advise`: three options as words and JSON, from a name or a folder, and a plain answer where nothing fits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.cli.amounts import parse_bytes, parse_positions
from kbit.cli.reference import KEYS


def test_words_and_json(kbit: Callable) -> None:
    asked = ("advise", "--memory", "16GB", "--family", "llama1", "--context", "2k", "--scheme", "16", "--scheme", "nf4:g64+gptq")
    called = kbit(*asked)
    assert called.code == 0, called.err
    assert [line.split()[0] for line in called.out.splitlines()[:5:2]] == ["safest", "best", "smallest"]
    facts = kbit(*asked, "--json").json
    assert set(facts) == set(KEYS["advise"].split())
    assert all(option["bytes"] <= 16e9 for option in facts["options"])


def test_a_folder_is_a_model(kbit: Callable, tiny_model: Path) -> None:
    facts = kbit("advise", "--memory", "100MB", "--models", tiny_model, "--family", "opt", "--context", "128", "--json").json
    assert {option["model"] for option in facts["options"]} == {"model"}


def test_nothing_fits(kbit: Callable) -> None:
    called = kbit("advise", "--memory", "60MB", "OPT-1.3B", "OPT-13B", "--context", "100")
    assert called.code == 0
    assert called.out.startswith("Nothing fits 60 MB")
    assert "OPT-1.3B" in called.out
    assert kbit("advise", "--memory", "60MB", "OPT-1.3B", "--context", "100", "--json").json["options"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("--memory", "8"), 1, "known families"),
        (("--memory", "8XB", "--family", "opt"), 2, "such as 8GB"),
        (("--memory", "0", "--family", "opt"), 2, "such as 8GB"),
        (("--memory", "8GB", "--family", "opt", "--context", "many"), 2, "such as 4096 or 16k"),
        (("--memory", "8GB", "--family", "optt"), 1, "did you mean 'opt'"),
        (("--memory", "8GB", "--family", "opt", "--context", "64k"), 1, "at most 2048 positions"),
        (("--memory", "8GB", "--family", "opt", "--law", "missing.json"), 1, "missing.json"),
        (("--memory", "8GB", "--family", "opt", "--cache", "int7", "--context", "9"), 1, "cache format"),
    ],
)
def test_what_cannot_be_understood(kbit: Callable, arguments: tuple[str, ...], code: int, expected: str) -> None:
    called = kbit("advise", *arguments)
    assert called.code == code
    assert expected in " ".join(called.err.replace("│", " ").split())


def test_amounts() -> None:
    assert parse_bytes("8GB", "") == 8 * 10**9
    assert parse_bytes("6.5 GiB", "") == int(6.5 * 2**30)
    assert parse_bytes("1000", "") == 1000
    assert parse_positions("16k", "") == 16384
