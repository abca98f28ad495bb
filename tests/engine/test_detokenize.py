"""Pieces add up to the whole, hold whole characters, and cost the same wherever they come."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.engine.detokenize import Detokenizer

NAMES = ("byte_level", "byte_fallback", "metaspace", "word_piece")
MARKS = [
    "é",
    "e\u0301",
    "👩‍👩‍👧",
    "🇩🇪",
    "ก็",
    "€",
    "𝄞",
    "日本",
    "a\u0308\u0323",
    "\u200d",
    "ab",
    " th",
    " €",
    "¬a",
    "\ufffd",
    ".",
    " ",
    "\n",
]


class _Counting:
    """A tokenizer that notes how many tokens it was asked to decode."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.tokens = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def decode(self, tokens: list[int], **options: Any) -> str:
        self.tokens += len(tokens)
        return str(self.tokenizer.decode(tokens, **options))


def _byte_ids(tokenizer: Any, data: bytes) -> list[int]:
    """A token a byte, whatever they say together."""
    if tokenizer.token_to_id("<0x00>") is not None:
        return [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in data]
    return [tokenizer.encode(chr(byte)).ids[-1] if byte < 0x80 else _high_byte(tokenizer, byte) for byte in data]


def _high_byte(tokenizer: Any, byte: int) -> int:
    return next(token for token in range(256) if tokenizer.decode([token]) == "\ufffd" and _reads(tokenizer, token) == byte)


def _reads(tokenizer: Any, token: int) -> int:
    """The byte of a one-byte token above 0x7F, by its letter in GPT-2's table."""
    letter = ord(tokenizer.id_to_token(token))
    return letter if letter < 256 else 0xAD if letter == 256 + 67 else letter - 256 - 33 + 0x7F


def _pieces(tokenizer: Any, tokens: list[int], prompt: list[int] | None = None) -> list[str]:
    stream = Detokenizer(tokenizer).stream(prompt or [])
    return [*map(stream.push, tokens), stream.end()]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_pieces_of_any_tokens_add_up(name: str, tokenizers_by_name: dict, data: st.DataObject) -> None:
    tokenizer = tokenizers_by_name[name]
    tokens = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() + 2), max_size=60))
    assert "".join(_pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_pieces_of_any_bytes_add_up(name: str, tokenizers_by_name: dict, data: st.DataObject) -> None:
    tokenizer = tokenizers_by_name[name]
    parts = st.one_of(st.binary(max_size=5), st.sampled_from(MARKS).map(str.encode))
    tokens = _byte_ids(tokenizer, b"".join(data.draw(st.lists(parts, max_size=20))))
    assert "".join(_pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@settings(deadline=None, max_examples=200)
@given(parts=st.lists(st.sampled_from([b"\x80", b"\xe2", b"\xe2\x82", b"\xf0\x9f\x98", b"\xff"]), min_size=10, max_size=40))
def test_pieces_of_text_that_never_becomes_whole_add_up(byte_level: Any, parts: list[bytes]) -> None:
    tokens = _byte_ids(byte_level, b"".join(parts))
    assert "".join(_pieces(byte_level, tokens)) == byte_level.decode(tokens)


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_text_comes_in_whole_characters_after_any_prompt(name: str, tokenizers_by_name: dict, data: st.DataObject) -> None:
    tokenizer = tokenizers_by_name[name]
    texts = st.one_of(st.lists(st.sampled_from(MARKS[:-4]), max_size=15).map("".join), st.text(max_size=10))
    text = data.draw(texts).replace("\ufffd", "")
    tokens = tokenizer.encode(text).ids
    cuts = [cut for cut in range(len(tokens) + 1) if name == "byte_level" or "\ufffd" not in tokenizer.decode(tokens[:cut])]
    cut = data.draw(st.sampled_from(cuts))
    pieces = _pieces(tokenizer, tokens[cut:], tokens[:cut])
    whole, shown = tokenizer.decode(tokens), tokenizer.decode(tokens[:cut])
    assert whole == shown.rstrip("\ufffd") + "".join(pieces)  # the prompt may end inside a character
    assert "\ufffd" not in "".join(pieces)


def test_text_is_shown_as_soon_as_it_is_whole(byte_level: Any, byte_fallback: Any) -> None:
    assert _pieces(byte_level, byte_level.encode("th€ ab").ids) == ["t", "h", "", "", "€", " ", "ab", ""]
    assert _pieces(byte_fallback, byte_fallback.encode("a€b").ids) == ["a", "", "", "", "€b", ""]


def test_a_space_after_the_prompt_stays(byte_fallback: Any) -> None:
    prompt, tokens = byte_fallback.encode("ab").ids, byte_fallback.encode("a b").ids
    assert "".join(_pieces(byte_fallback, tokens, prompt)) == " a b"
    assert "".join(_pieces(byte_fallback, tokens)) == "a b"


def test_special_tokens_are_silent_and_do_not_part_a_character(byte_level: Any, byte_fallback: Any) -> None:
    for tokenizer in (byte_level, byte_fallback):
        first, *rest = _byte_ids(tokenizer, "€".encode())
        end = tokenizer.token_to_id("</s>")
        assert "".join(_pieces(tokenizer, [end, first, end, *rest, end])) == "€"


def test_a_character_that_stays_broken_is_shown_at_the_end(byte_level: Any) -> None:
    tokens = _byte_ids(byte_level, b"a\xe2\x82")
    assert _pieces(byte_level, tokens) == ["a", "", "", "\ufffd"]


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
@pytest.mark.parametrize("kind", ["text", "marks", "noise", "continuations", "leads"])
def test_the_work_a_token_does_not_grow(name: str, kind: str, tokenizers_by_name: dict) -> None:
    data = {
        "text": b"the abbey " * 400,
        "marks": "".join(MARKS).encode() * 40,
        "noise": bytes((i * i * 31 + i) % 256 for i in range(4000)),
        "continuations": b"\x80" * 4000,
        "leads": b"\xf0\x9f" * 2000,
    }[kind]
    tokens = _byte_ids(tokenizers_by_name[name], data)
    counting = _Counting(tokenizers_by_name[name])
    assert "".join(_pieces(counting, tokens)) == tokenizers_by_name[name].decode(tokens)
    assert counting.tokens < 45 * len(tokens)


def test_published_tokenizers(shared_data: Any) -> None:
    from tokenizers import Tokenizer

    text = "".join(MARKS) * 3 + "naïve café, 東京 → 👩🏽‍💻!"
    paths = ["models/stories260k/tokenizer.json", "models/quill-0.4m/tokenizer.json", "tokenizers/gpt2/tokenizer.json"]
    for path in (*paths, "tokenizers/gpt-neox/20B_tokenizer.json"):
        tokenizer = Tokenizer.from_file(str(shared_data / path))
        tokens = tokenizer.encode(text).ids
        assert "".join(_pieces(tokenizer, tokens)) == tokenizer.decode(tokens)
