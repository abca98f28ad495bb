"""`kbit calibrate`, and what `kbit quantize` takes for a calibration: experts' coverage, token files, the model's own text, importance."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kbit.cli.reference import KEYS

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mixture of four experts, of which a token sees two, and a file of token ids."""
    folder = tmp_path_factory.mktemp("mixture")
    torch.manual_seed(3)
    config = transformers.MixtralConfig(
        vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=32, num_local_experts=4, num_experts_per_tok=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).save_pretrained(folder / "model")
    np.save(folder / "ids.npy", np.random.default_rng(0).integers(3, 96, 320).astype(np.uint16))
    return folder


def test_coverage_of_experts_is_in_the_json_and_the_text(kbit: Callable, mixture: Path, tmp_path: Path) -> None:
    arguments = [
        "quantize",
        mixture / "model",
        "--scheme",
        "int3:g32+gptq",
        "--calibration",
        mixture / "ids.npy",
        "--calibration-tokens",
        "160",
    ]
    called = kbit(*arguments, "-o", tmp_path / "json", "--json", "--calibration-memory", "10kB")
    assert called.code == 0, called.err
    experts = called.json["calibration"]["experts"]
    assert len(experts) == 2
    assert all(len(rows) == 4 and sum(rows) == 2 * 160 for rows in experts.values())
    said = kbit(*arguments, "-o", tmp_path / "text")
    for name, rows in experts.items():
        assert f"experts           {name}: {min(rows):,} to {max(rows):,} input rows each" in said.out
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("json", "text")]
    assert files[0] == files[1]


def test_importance_is_kept_and_used(kbit: Callable, mixture: Path, tmp_path: Path) -> None:
    file = tmp_path / "importance.safetensors"
    called = kbit("calibrate", mixture / "model", "--calibration", mixture / "ids.npy", "-o", file, "--json")
    assert called.code == 0, called.err
    assert set(called.json) == set(KEYS["calibrate"].split())
    assert called.json["tokens"] == 320
    assert {len(rows) for rows in called.json["experts"].values()} == {4}
    refused = kbit("calibrate", mixture / "model", "--calibration", mixture / "ids.npy", "-o", file)
    assert refused.code == 1
    assert "already" in refused.err
    said = kbit("calibrate", mixture / "model", "--calibration", mixture / "ids.npy", "-o", file, "--overwrite")
    assert "320 tokens" in said.out
    made = kbit("quantize", mixture / "model", "--scheme", "nf3:g32+imp", "--importance", file, "-o", tmp_path / "out", "--json")
    assert made.code == 0, made.err
    plain = kbit("quantize", mixture / "model", "--scheme", "nf3:g32:mse", "-o", tmp_path / "plain", "--json")
    assert made.json["root"] != plain.json["root"]


def test_the_model_writes_its_own_text(kbit: Callable, mixture: Path, tmp_path: Path) -> None:
    arguments = ["quantize", mixture / "model", "--scheme", "int4:g32+imp", "--calibration", "self", "--calibration-tokens", "64"]
    roots = {kbit(*arguments, "--seed", seed, "-o", tmp_path / f"{name}", "--json").json["root"] for name, seed in (("a", "1"), ("b", "1"))}
    assert len(roots) == 1
    other = kbit(*arguments, "--seed", "2", "-o", tmp_path / "c", "--json")
    assert other.json["calibration"]["tokens"] == 64
    assert other.json["root"] not in roots
    mixed = kbit(*arguments, "--calibration", mixture / "ids.npy", "-o", tmp_path / "d")
    assert mixed.code == 1
    assert "expected --calibration self alone" in mixed.err
