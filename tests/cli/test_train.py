"""`kbit train`: what the loop finds reaches both forms of the output."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.cli.reference import KEYS

pytest.importorskip("accelerate")

RECIPE = """
name = "one"
tokenizer = "{model}"
[data]
train = ["text.txt"]
heldout = ["text.txt"]
heldout_tokens = 64
[architecture]
model_type = "llama"
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
[training]
tokens = 64
context = 16
batch_tokens = 32
[sizes.a]
tie_word_embeddings = true
"""


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("The sea was calm, and the old captain slept. " * 30)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(model=tiny_model))
    return path


def test_trains_and_says_what_came(kbit: Callable, recipe: Path, tmp_path: Path) -> None:
    called = kbit("train", "--recipe", recipe, "-o", tmp_path / "family", "--json")
    assert called.code == 0, called.err
    assert set(called.json) == set(KEYS["train"].split())
    (model,) = called.json["models"]
    assert model["size"] == "a"
    assert model["tokens"] == 64
    assert (tmp_path / "family" / "one-a" / "model.safetensors").exists()
    again = kbit("train", "--recipe", recipe, "-o", tmp_path / "family")
    assert again.code == 0, again.err
    assert "held-out loss" in again.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--size", "b"), "unknown size 'b'"),
        (("--track", "tensorbored"), "did you mean 'tensorboard'"),
        (("--recipe", "none.toml"), "none.toml"),
    ],
)
def test_errors_are_one_line(kbit: Callable, recipe: Path, tmp_path: Path, arguments: tuple[str, str], words: str) -> None:
    given = ("train", "--recipe", recipe, "-o", tmp_path / "family", *arguments)
    called = kbit(*given)
    assert called.code == 1
    assert called.err.count("\n") == 1
    assert words in called.err
