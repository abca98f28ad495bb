"""What is chosen without a tuning, and that a tuning comes first."""

from dataclasses import replace
from pathlib import Path

import pytest

from kbit.kernels import choose
from kbit.kernels.select import default_variant
from kbit.kernels.tuning import Choice, Tuning, machine, store_tuning
from kbit.kernels.variants import TOKEN_CLASSES, Kind, TokenClass, Variant, applicable

ISAS = ["amx", "avx512", "avx2", "neon", "scalar", "one of tomorrow"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("straight", [False, True])
def test_every_default_is_possible(isa: str, bits: int, straight: bool) -> None:
    kind = Kind(bits, straight, 64, 64, 64)
    for tokens in TOKEN_CLASSES:
        assert default_variant(kind, tokens, isa) in applicable(kind)


@pytest.mark.parametrize(
    ("isa", "bits", "straight", "tokens", "variant"),
    [
        ("avx512", 1, True, "one", "automatic"),
        ("avx512", 8, True, "one", "integer"),
        ("avx512", 8, False, "one", "automatic"),
        ("avx512", 2, True, "few", "integer"),
        ("amx", 2, True, "few", "integer"),
        ("amx", 2, False, "few", "lookup"),
        ("avx512", 3, True, "few", "lookup"),
        ("avx2", 4, True, "few", "integer"),
        ("avx2", 4, True, "one", "automatic"),
        ("neon", 1, True, "one", "automatic"),
        ("scalar", 2, True, "one", "serial"),
        ("scalar", 2, False, "one", "automatic"),
        ("scalar", 8, True, "few", "integer"),
        ("avx2", 3, True, "few", "lookup"),
        ("avx2", 4, False, "few", "lookup"),
        ("avx2", 6, False, "few", "automatic"),
        ("avx2", 8, True, "few", "integer"),
        ("one of tomorrow", 1, True, "few", "automatic"),
    ],
)
def test_defaults(isa: str, bits: int, straight: bool, tokens: TokenClass, variant: Variant) -> None:
    kind = Kind(bits, straight, 64, 64, 64)
    assert default_variant(kind, tokens, isa) == variant
    assert choose(kind, tokens, isa) == variant  # tests have no tuning


def test_a_tuning_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBIT_TUNING", str(tmp_path / "tuning.json"))
    kind = Kind(2, True, 64, 2048, 2048)
    store_tuning(tmp_path / "tuning.json", Tuning(machine("avx512"), (1,), (Choice(kind, "one", "serial", 1.5),)))
    assert choose(kind, "one", "avx512") == "serial"
    assert choose(kind, "few", "avx512") == "integer"
    assert choose(replace(kind, cols=64), "one", "avx512") == "automatic"
    assert choose(replace(kind, group=128), "one", "avx512") == "automatic"
