"""A recipe small enough to train in a second: one layer, a tokenizer of a few hundred tokens, a text made up here."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

RECIPE = """
name = "tiny"
tokenizer = "tokenizer"

[data]
train = ["text"]
heldout = ["heldout.txt"]
separator = "\\u0000"

[architecture]
model_type = "llama"
tie_word_embeddings = true
num_attention_heads = 2
num_key_value_heads = 1
num_hidden_layers = 1
hidden_size = 32
intermediate_size = 64

[training]
tokens = 2560
context = 32
batch_tokens = 128
accumulation = 2
warmup_steps = 3
checkpoint_steps = 4

[sizes.a]
learning_rate = 3e-3

[sizes.b]
hidden_size = 64
"""


def words(count: int, seed: int) -> str:
    generator = np.random.default_rng(seed)
    return " ".join(generator.choice(["the", "whale", "sea", "ship", "and", "old", "captain", "sails", "over", "waves"], count))


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with recipe.toml, its tokenizer and texts."""
    folder = tmp_path_factory.mktemp("family")
    (folder / "text").mkdir()
    (folder / "text" / "one.txt").write_text("\0".join(words(400, seed) for seed in range(4)))
    (folder / "text" / "two.txt").write_text(words(300, 9))
    (folder / "heldout.txt").write_text(words(200, 77))
    (folder / "recipe.toml").write_text(RECIPE)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [words(300, 5)],
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False),
    )
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    return folder
