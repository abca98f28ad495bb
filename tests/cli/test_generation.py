"""Streaming never shows half a character, and shows everything in the end."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.cli.generation import _Pieces


class _Bytes:
    """A tokenizer of single bytes, and arrays that reshape like tensors."""

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


class _Array(list):
    def reshape(self, size: int) -> Any:
        return self


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), min_size=1))
def test_pieces_add_up_and_hold_whole_characters(text: str) -> None:
    shown: list[str] = []
    pieces = _Pieces(_Bytes(), shown.append)
    pieces.put(_Array([1, 2, 3]))  # the prompt is not shown
    for byte in text.encode():
        pieces.put(_Array([byte]))
    pieces.end()
    assert "".join(shown) == text
    assert len(shown) == len(text)


def test_a_character_that_stays_broken_is_shown_at_the_end() -> None:
    shown: list[str] = []
    pieces = _Pieces(_Bytes(), shown.append)
    pieces.put(_Array([]))
    pieces.put(_Array([ord("a")]))
    pieces.put(_Array([0xE2]))
    assert shown == ["a"]
    pieces.end()
    assert "".join(shown) == "a\ufffd"
