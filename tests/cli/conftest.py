"""What the tests of the command line share: rows of a made-up demo, a tiny model, and a way to call verbs."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kbit.cli.main import app
from kbit.cli.tradeoff import Row


def _row(grid: str, k: int, kl: float, **changes: Any) -> Row:
    """A row whose loss rises by exactly its KL divergence."""
    bpw = (k + 0.25) * 0.75 + 8.25 * 0.25
    perplexity = 48.0 * math.exp(kl)
    values: dict[str, Any] = {
        "scheme": f"{grid}{k}:g64",
        "grid": grid,
        "k": k,
        "bpw": bpw,
        "file_bytes": int(4.2e6 * bpw / 8),
        "perplexity": perplexity,
        "perplexity_low": perplexity * 0.95,
        "perplexity_high": perplexity * 1.05,
        "ratio_high": math.exp(kl * 1.1),
        "kl_mean": kl,
        "kl_low": kl * 0.9,
        "kl_high": kl * 1.1,
        "top1_agreement": 1 - min(0.9, math.sqrt(kl) / 3),
        "decode_tokens_per_s": 200.0,
    }
    return Row(**values | changes)


def _original() -> Row:
    """The 16-bit row."""
    return _row("none", 16, 0.0, scheme="16", bpw=16.0, file_bytes=8_400_000)


def _all_rows() -> list[Row]:
    """The original and five data types at k = 2…8; k-means is the best at every k."""
    factors = {"int": 1.6, "float": 1.25, "nf": 1.0, "log": 1.1, "kmeans": 0.9}
    return [_original(), *(_row(grid, k, factor * 2.2 * 4.0 ** (2 - k)) for grid, factor in factors.items() for k in range(2, 9))]


@pytest.fixture
def make_row() -> Callable[..., Row]:
    """``make_row(grid, k, kl, **changes)``."""
    return _row


@pytest.fixture
def original_row() -> Row:
    """The 16-bit row."""
    return _original()


@pytest.fixture
def demo_rows() -> list[Row]:
    """The original and five data types at k = 2…8; k-means is the best at every k."""
    return _all_rows()


@dataclass(frozen=True)
class Called:
    """What a verb said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """stdout, which is one JSON object and nothing else."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def kbit() -> Callable[..., Called]:
    """``kbit("show", folder, "--json")``: calls a verb in this process."""

    def call(*arguments: object, stdin: str | None = None) -> Called:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, catch_exceptions=False)
        return Called(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, tied embedding, and the embedded model's tokenizer."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()  # as `main` does for a process
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    source = files("kbit").joinpath("data", "quill-4.2m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(str(source.joinpath(name)), folder / name)
    return folder


@pytest.fixture(scope="session")
def packed_model(tiny_model: Path, kbit: Callable[..., Called]) -> Path:
    """The tiny model at nf4:g32, its embedding at int8:g64."""
    folder = tiny_model.parent / "packed"
    called = kbit("quantize", tiny_model, "--scheme", "nf4:g32", "--embedding", "int8:g64", "-o", folder)
    assert called.code == 0, called.err
    return folder
