"""`kbit bench`: figures and the work they stand for; no figure is asserted on."""

from collections.abc import Callable
from pathlib import Path

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


def test_too_long_for_the_model_is_one_line(kbit: Callable, tiny_model: Path) -> None:
    called = kbit("bench", tiny_model, "--decode", 5000)
    assert called.code == 1
    assert "positions" in called.err


def test_zero_tokens_is_bad_usage(kbit: Callable, tiny_model: Path) -> None:
    assert kbit("bench", tiny_model, "--prompt", 0).code == 2
