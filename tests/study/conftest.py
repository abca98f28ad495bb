"""Two tiny random models, a tokenizer, a text, and a plan over them."""

from collections.abc import Callable
from pathlib import Path

import pytest

PLAN = """
name = "tiny"

[text]
paths = ["heldout.txt"]
dataset = "made-up"
windows = 3
contexts = [32]

[calibration]
paths = ["text.txt"]
tokens = 128

[[models]]
path = "a"

[[models]]
path = "b"
family = "other"

[[schemes]]
grids = ["int", "nf"]
bits = [3]
group_sizes = [32]
methods = ["", "imp+gptq"]
"""


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the models ``a`` and ``b``, texts and ``plan.toml``; nobody writes into it."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tests.train.conftest import words
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("lab")
    (folder / "heldout.txt").write_text(words(900, 1))
    (folder / "text.txt").write_text(words(900, 2))
    (folder / "plan.toml").write_text(PLAN)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([words(300, 5)], trainer)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=280,
            hidden_size=32 * (seed + 1),
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / name)
        tokenizer.save(str(folder / name / "tokenizer.json"))
        (folder / name / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}'
        )
    return folder


@pytest.fixture
def planned(lab: Path) -> Callable[..., Path]:
    """Writes a plan beside the models: the usual one, with some words changed."""

    def write(name: str, *changes: tuple[str, str]) -> Path:
        text = PLAN
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = lab / f"{name}.toml"
        path.write_text(text)
        return path

    return write


#: columns that say when and how long, not what
TIMES = {"seconds", "quantize_seconds", "evaluate_seconds", "peak_rss_bytes", "load_seconds"}


def lasting(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows without times."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
