"""Tokens to text up to a stop string, which may begin and end inside tokens."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.engine.detokenize import Detokenizer
from kbit.engine.text import OutputText


def _shown(output: OutputText, tokens: list[int]) -> tuple[str, int]:
    """The pieces together, and how many tokens it took."""
    shown = ""
    for used, token in enumerate(tokens, 1):
        shown += output.push(token)
        if output.stop is not None:
            return shown, used
    return shown + output.end(), len(tokens)


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
@settings(deadline=None, max_examples=200)
@given(words=st.lists(st.sampled_from(["ab", " th", "€", "👩‍👧", "é", "a", "b", "¬a"]), max_size=12), data=st.data())
def test_a_stop_string_anywhere(name: str, tokenizers_by_name: dict, words: list[str], data: st.DataObject) -> None:
    tokenizer, text = tokenizers_by_name[name], "".join(words)
    stop = data.draw(st.sampled_from(["b th", "€a", "\u200d", "é", "ba", "no"]))
    output = OutputText(Detokenizer(tokenizer), stops=[stop])
    tokens = tokenizer.encode(text).ids
    whole = tokenizer.decode(tokens)
    shown, _ = _shown(output, tokens)
    assert shown == output.text == whole.split(stop)[0]
    assert output.stop == (stop if stop in whole else None)


def test_it_ends_with_the_token_that_completes_the_stop_string(byte_level: Any) -> None:
    output = OutputText(Detokenizer(byte_level), stops=["€"])
    assert _shown(output, byte_level.encode("a€ab").ids) == ("a", 4)
    assert output.push(5) == output.end() == ""


def test_an_unfinished_character_at_the_end_may_be_part_of_a_stop_string(byte_level: Any) -> None:
    output = OutputText(Detokenizer(byte_level), stops=["a\ufffd"])
    assert _shown(output, byte_level.encode("xa€").ids[:-1])[0] == "x"
    assert output.stop == "a\ufffd"
