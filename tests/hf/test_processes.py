"""What needs a process of its own: the plug-in absent, registered by one import, and lm_eval on a k-bit model."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from kbit.hf import KbitConfig

from .conftest import Checkpoint

Make = Callable[..., Checkpoint]
ROOT = Path(__file__).parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_a_missing_plug_in_fails_loudly_and_one_import_is_enough(checkpoint: Make, tmp_path: Path) -> None:
    checkpoint("llama-tied").load(quantization_config=KbitConfig("nf4:g32")).save_pretrained(tmp_path / "model")
    code = f"""
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained({str(tmp_path / "model")!r})
except RuntimeError as error:
    assert "ignore_mismatched_sizes" in str(error), error
else:
    raise SystemExit("loaded without the plug-in")
from kbit import KbitConfig
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "model")!r})
print(type(model.model.layers[0].mlp.up_proj).__name__)
"""
    result = run("-c", code)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == ["KbitLinear"]
    assert "Unknown quantization type, got kbit" in result.stderr
    assert "MISMATCH" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed")
def test_lm_eval_runs_on_a_k_bit_model(shared_data: Path, tmp_path: Path) -> None:
    model, passages = shared_data / "models" / "quill-0.4m", tmp_path / "passages.jsonl"
    lines = (shared_data / "eval" / "lambada_test.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    passages.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script = str(ROOT / "benchmarks" / "lambada.py")
    result = run(script, "--model", str(model), "--scheme", "int8:g64", "--data", str(passages), "--json", str(tmp_path / "figures.json"))
    assert result.returncode == 0, result.stderr[-2000:]
    figures = json.loads((tmp_path / "figures.json").read_text())
    ordinary, packed = figures["rows"]
    assert [row["scheme"] for row in figures["rows"]] == ["16", "int8:g64"]
    assert ordinary["passages"] == packed["passages"] == 4
    assert 0.5 < packed["perplexity"] / ordinary["perplexity"] < 2
    assert packed["acc_stderr"] >= 0
