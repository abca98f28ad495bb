"""What is chosen without a tuning, and that a tuning comes first."""

from pathlib import Path

import pytest

from kbit.kernels import choose
from kbit.kernels.select import default_variant
from kbit.kernels.tuning import Choice, Tuning, machine, store_tuning
from kbit.kernels.variants import TOKEN_CLASSES, TokenClass, Variant, applicable

ISAS = ["avx512", "avx2", "neon", "scalar", "one of tomorrow"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("affine", [False, True])
def test_every_default_is_possible(isa: str, bits: int, affine: bool) -> None:
    for tokens in TOKEN_CLASSES:
        assert default_variant(bits, affine=affine, token_class=tokens, isa=isa) in applicable(bits, affine=affine)


@pytest.mark.parametrize(
    ("isa", "bits", "affine", "tokens", "variant"),
    [
        ("avx512", 1, True, "one", "automatic"),
        ("avx512", 2, True, "few", "integer"),
        ("avx512", 2, False, "few", "automatic"),
        ("avx2", 4, True, "few", "integer"),
        ("avx2", 4, True, "one", "automatic"),
        ("neon", 1, True, "one", "automatic"),
        ("scalar", 2, True, "one", "serial"),
        ("scalar", 2, False, "one", "automatic"),
        ("scalar", 4, True, "few", "automatic"),
        ("one of tomorrow", 1, True, "few", "automatic"),
    ],
)
def test_defaults(isa: str, bits: int, affine: bool, tokens: TokenClass, variant: Variant) -> None:
    assert default_variant(bits, affine=affine, token_class=tokens, isa=isa) == variant
    assert choose(bits, 64, 64, affine=affine, token_class=tokens, isa=isa) == variant  # tests have no tuning


def test_a_tuning_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBIT_TUNING", str(tmp_path / "tuning.json"))
    choice = Choice(2, True, 2048, 2048, "one", "serial", 1.5)
    store_tuning(tmp_path / "tuning.json", Tuning(machine("avx512"), (1,), (choice,)))
    assert choose(2, 2048, 2048, affine=True, token_class="one", isa="avx512") == "serial"
    assert choose(2, 2048, 2048, affine=True, token_class="few", isa="avx512") == "integer"
    assert choose(2, 2048, 64, affine=True, token_class="one", isa="avx512") == "automatic"
