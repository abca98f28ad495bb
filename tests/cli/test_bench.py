"""`kbit bench`: figures and the work they stand for; no figure is asserted on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kbit import native
from kbit.cli.reference import KEYS

SHORT = ("--prompt", 8, "--decode", 2, "--repeats", 1, "--threads", 1)


def test_measures(kbit: Callable, packed_model: Path) -> None:
    called = kbit("bench", packed_model, *SHORT, "--json")
    assert called.code == 0, called.err
    facts = called.json
    assert set(facts) == set(KEYS["bench"].split())
    assert (facts["threads"], facts["prompt_tokens"], facts["decode_tokens"], facts["repeats"]) == (1, 8, 2, 1)
    assert min(facts["prefill_tokens_per_s"], facts["decode_tokens_per_s"], facts["decode_gb_per_s"], facts["memory_roof_gb_per_s"]) > 0


def test_people_read_a_table(kbit: Callable, tiny_model: Path) -> None:
    out = kbit("bench", tiny_model, *SHORT).out
    assert [line.split()[0] for line in out.splitlines()] == ["prefill", "decode", "weights", "memory", "int8", "1"]


def test_tunes(kbit: Callable, packed_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tuning.json"
    monkeypatch.setenv("KBIT_TUNING", str(path))
    called = kbit("bench", packed_model, "--tune", "--repeats", 1, "--threads", 1, "--json")
    assert called.code == 0, called.err
    facts = called.json
    assert (facts["path"], facts["isa"], facts["threads"]) == (str(path), native.isa(), [1])
    assert {choice["tokens"] for choice in facts["choices"]} == {"one", "few"}
    assert set(facts["choices"][0]) == {"bits", "straight", "group", "rows", "cols", "tokens", "variant", "gain", "default"}
    assert path.exists()
    out = kbit("bench", packed_model, "--tune", "--repeats", 1, "--threads", 1).out.splitlines()
    assert out[0].split() == ["k", "codebook", "group", "shape", "tokens", "chosen", "default", "gain"]
    assert out[-1].startswith(f"kept in {path} for ")
    assert len(out) == len(facts["choices"]) + 3


def test_a_folder_may_be_left_out_to_tune_only(kbit: Callable) -> None:
    assert kbit("bench").code == 2


def test_too_long_for_the_model_is_one_line(kbit: Callable, tiny_model: Path) -> None:
    called = kbit("bench", tiny_model, "--decode", 5000)
    assert called.code == 1
    assert "positions" in called.err


def test_zero_tokens_is_bad_usage(kbit: Callable, tiny_model: Path) -> None:
    assert kbit("bench", tiny_model, "--prompt", 0).code == 2
