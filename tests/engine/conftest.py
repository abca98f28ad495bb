"""Tokenizers made here, one of each kind that splits characters or spaces."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower with more."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    """Bytes are ids 0…255 in the order of their letters; a few merges, two of which end inside a character; <s> and </s> are special."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letter_of = dict(zip(_byte_order(), letters, strict=True))
    e2, ac, f0, x9f = (letter_of[byte] for byte in (0xE2, 0xAC, 0xF0, 0x9F))
    merges = [("a", "b"), ("Ġ", "t"), ("Ġt", "h"), (f0, x9f), (ac, "a"), ("Ġ", e2)]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    vocabulary |= {"".join(merge): 256 + i for i, merge in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    return tokenizer


def _byte_order() -> list[int]:
    """Bytes in the order of their letters (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letter = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return sorted(letter, key=lambda byte: letter[byte])


@pytest.fixture(scope="session")
def byte_fallback() -> Tokenizer:
    """As Llama 2 has it: ▁ for spaces, <0xE2> for what is not in the vocabulary, one leading space dropped."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghij.", "▁a", "▁b", "ab", "é"]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


@pytest.fixture(scope="session")
def metaspace() -> Tokenizer:
    words = ["<unk>", "▁", "▁a", "▁b", "a", "b", "ab", "▁▁", "\ufffd", "é"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


@pytest.fixture(scope="session")
def word_piece() -> Tokenizer:
    words = ["[UNK]", "a", "b", "##a", "##b", ".", "n't", "'", "\ufffd"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


@pytest.fixture(scope="session")
def tokenizers_by_name(byte_level: Any, byte_fallback: Any, metaspace: Any, word_piece: Any) -> dict[str, Tokenizer]:
    return {"byte_level": byte_level, "byte_fallback": byte_fallback, "metaspace": metaspace, "word_piece": word_piece}


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., Any]:
    """A Llama of random weights with a wide spread, so that no two tokens are nearly equal."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

    def build(seed: int = 0, vocab_size: int = 48, positions: int = 128) -> Any:
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            initializer_range=0.3,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        return transformers.LlamaForCausalLM(config).eval()

    return build
