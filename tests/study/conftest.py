"""Rows that are published, rows that a known law made, and laws fitted to both; two tiny random models with a text and a plan over them."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kbit.study.book import LawBook
from kbit.study.fitting import Fitting, fit_laws
from kbit.study.rows import Row
from kbit.study.tables import read_rows

PUBLISHED = Path(__file__).with_name("published.csv")

#: E, A and the common exponent of the families that `made_rows` makes
CURVES = {"alpha": (2.0, 9.0), "beta": (1.0, 6.0)}
EXPONENT, SIZE_EXPONENT = 0.4, 0.3
LEVELS = {(4, -1): math.log(0.05), (3, -1): math.log(0.3), (3, 128): math.log(0.2)}


def loss_of(family: str, billions: float, bits: int, group: int) -> float:
    floor, scale = CURVES[family]
    loss = math.log(math.exp(floor) + scale * billions**-EXPONENT)
    return loss + (0.0 if bits == 16 else math.exp(LEVELS[bits, group]) * billions**-SIZE_EXPONENT)


def made_rows(noise: float = 0.0, sizes: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)) -> list[Row]:
    random = np.random.default_rng(0)
    rows = []
    for family in CURVES:
        for billions in sizes:
            for bits, group in ((16, -1), *LEVELS):
                loss = loss_of(family, billions, bits, group) + noise * random.standard_normal()
                method = "none" if bits == 16 else "gptq"
                bpw = bits + (0 if group == -1 else 16 / group)
                rows.append(
                    Row(family, round(billions * 1e9), method, bits, group, bpw, "text", 2048, math.exp(loss), f"made: row {len(rows)}")
                )
    return rows


@pytest.fixture(scope="session")
def published() -> tuple[Row, ...]:
    return read_rows(PUBLISHED)


@pytest.fixture(scope="session")
def fitting(published: tuple[Row, ...]) -> Fitting:
    return fit_laws(published, draws=4)


@pytest.fixture(scope="session")
def book(fitting: Fitting) -> LawBook:
    return LawBook.of(fitting)


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
