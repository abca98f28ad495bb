"""`kbit doctor`: facts about this machine, and hints that follow from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kbit import native
from kbit.cli.doctor import hints, tuning, tuning_text
from kbit.cli.reference import KEYS
from kbit.kernels.tuning import Choice, Tuning, machine, store_tuning
from kbit.kernels.variants import Kind
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


def test_says_which_tuning_is_in_use(kbit: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "off (KBIT_TUNING is empty" in kbit("doctor").out
    path = tmp_path / "tuning.json"
    monkeypatch.setenv("KBIT_TUNING", str(path))
    assert tuning_text(tuning("avx2")) == f"none at {path}: default kernels"
    store_tuning(path, Tuning(machine("avx2"), (1,), (Choice(Kind(2, True, 64, 64, 64), "one", "lookup", 1.1),)))
    assert tuning("avx2") == {"state": "active", "path": str(path), "choices": 1, "error": None}
    assert tuning_text(tuning("avx2")) == f"1 choice from {path}"
    foreign = tuning("of tomorrow")
    assert foreign["state"] == "ignored"
    assert "FormatError: " in tuning_text(foreign)
    assert "expected a measurement of this machine" in foreign["error"]
    path.write_text("{", encoding="utf-8")
    assert tuning("avx2")["error"].startswith(f"FormatError: {path}")


def _facts(**changes: Any) -> dict[str, Any]:
    extras = dict.fromkeys(("torch", "transformers", "accelerate", "matplotlib", "scipy", "lm_eval", "pyarrow", "triton"), "1.0")
    return {
        "extras": extras,
        "isa": "avx2",
        "available_isas": ["avx2", "scalar"],
        "threads": 1,
        "huge_pages": "madvise",
        "tuning": {"state": "none"},
    } | changes


def test_no_hints_where_all_is_well() -> None:
    assert hints(_facts()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"isa": "scalar"}, "unset KBIT_ISA"),
        ({"isa": "scalar", "available_isas": ["scalar"]}, "no vector instruction set"),
        ({"huge_pages": "never"}, "huge pages are off"),
        ({"threads": 10**6}, "unset KBIT_THREADS"),
        ({"tuning": {"state": "ignored"}}, "kbit bench --tune makes a new one"),
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
