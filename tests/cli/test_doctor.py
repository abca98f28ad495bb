"""`kbit doctor`: facts about this machine, and hints that follow from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kbit import native
from kbit.cli.doctor import hints
from kbit.cli.reference import KEYS
from kbit.native.memory import huge_pages


def test_says_what_is_there(kbit: Callable) -> None:
    called = kbit("doctor", "--json")
    assert called.code == 0
    facts = called.json
    assert set(facts) == set(KEYS["doctor"].split())
    assert facts["isa"] == native.isa()
    assert facts["available_isas"][-1] == "scalar"
    assert facts["memory_roof_gb_per_s"] > 0
    assert {"torch", "transformers", "matplotlib"} <= set(facts["extras"])


def test_people_read_the_same(kbit: Callable) -> None:
    out = kbit("doctor").out
    assert f"{native.isa()} (available: " in out
    assert "memory roof" in out


def test_threads_are_refused_by_the_native_face(kbit: Callable) -> None:
    called = kbit("doctor", "--threads", 100000)
    assert called.code == 1
    assert "threads must be" in called.err


@pytest.mark.parametrize(
    ("text", "mode"), [("always [madvise] never\n", "madvise"), ("[always] madvise never", "always"), ("?", "unknown")]
)
def test_huge_pages(text: str, mode: str, tmp_path: Path) -> None:
    (tmp_path / "enabled").write_text(text)
    assert huge_pages(tmp_path / "enabled") == mode
    assert huge_pages(tmp_path / "nowhere") == "unknown"


def _facts(**changes: Any) -> dict[str, Any]:
    extras = dict.fromkeys(("torch", "transformers", "accelerate", "matplotlib", "scipy", "lm_eval", "triton"), "1.0")
    return {"extras": extras, "isa": "avx2", "available_isas": ["avx2", "scalar"], "threads": 1, "huge_pages": "madvise"} | changes


def test_no_hints_where_all_is_well() -> None:
    assert hints(_facts()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"isa": "scalar"}, "unset KBIT_ISA"),
        ({"isa": "scalar", "available_isas": ["scalar"]}, "no vector instruction set"),
        ({"huge_pages": "never"}, "huge pages are off"),
        ({"threads": 10**6}, "unset KBIT_THREADS"),
    ],
)
def test_hints(changes: dict[str, Any], words: str) -> None:
    (hint,) = hints(_facts(**changes))
    assert words in hint


def test_missing_extras_name_their_cure() -> None:
    facts = _facts()
    facts["extras"] |= {"torch": None, "lm_eval": None, "triton": None}
    assert [hint.partition(":")[0] for hint in hints(facts)] == ["torch not installed", "lm_eval not installed"]
    assert "kbit[torch]" in hints(facts)[0]
