"""Tiny models, and a tokenizer made here, so that no test needs data from elsewhere."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM

from kbit.evaluate.windows import TokenizedText


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    def build(seed: int = 0, vocab_size: int = 50, positions: int = 64) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            initializer_range=0.3,
            tie_word_embeddings=False,
        )
        return LlamaForCausalLM(config).eval()

    return build


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[..., Tokenizer]:
    """One token a byte (ids 0…255), a merge for "ab", and BOS 257."""

    def build(adds_bos: bool = False) -> Tokenizer:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {letter: i for i, letter in enumerate(letters)} | {"ab": 256, "<s>": 257}
        tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        if adds_bos:
            tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 257)])
        return tokenizer

    return build


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Callable[..., Tokenizer]) -> Callable[..., Path]:
    """A Llama with every awkward size: 24 and 120 rows are not whole tiles."""
    made: dict[tuple[torch.dtype, bool], Path] = {}

    def build(dtype: torch.dtype = torch.float32, adds_bos: bool = False) -> Path:
        if (dtype, adds_bos) not in made:
            torch.manual_seed(3)
            config = LlamaConfig(
                vocab_size=258,
                hidden_size=96,
                intermediate_size=120,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=1,
                max_position_embeddings=64,
                initializer_range=0.2,
                tie_word_embeddings=False,
            )
            folder = tmp_path_factory.mktemp("model")
            LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
            byte_tokenizer(adds_bos).save(str(folder / "tokenizer.json"))
            made[dtype, adds_bos] = folder
        return made[dtype, adds_bos]

    return build


@pytest.fixture
def random_text() -> Callable[..., TokenizedText]:
    def build(tokens: int, vocab_size: int = 50, seed: int = 0, bos_id: int | None = None) -> TokenizedText:
        random = np.random.default_rng(seed)
        ends = np.concatenate([[0], np.cumsum(random.integers(1, 5, tokens))])
        return TokenizedText(random.integers(0, vocab_size, tokens), ends, bos_id, "t" * 64, "k" * 64)

    return build
