"""Texts and ids become a prompt that the model can continue, or an error that says why not."""

from typing import Any

import pytest

from kbit.core.errors import FormatError, LimitError, ModelError, SchemeError
from kbit.engine.prompts import prompt_ids

from .fakes import HashStepper


def test_texts_and_ids(byte_level: Any) -> None:
    stepper = HashStepper(265)
    ids = tuple(byte_level.encode("ab th").ids)
    assert prompt_ids("ab th", byte_level, stepper, None) == prompt_ids(ids, byte_level, stepper, None) == ids


def test_an_empty_prompt_is_the_beginning_of_a_text(byte_level: Any) -> None:
    for empty in ("", []):
        assert prompt_ids(empty, byte_level, HashStepper(265), 262) == (262,)
        with pytest.raises(ModelError, match="no token to begin a text with"):
            prompt_ids(empty, byte_level, HashStepper(265), None)


@pytest.mark.parametrize(
    ("prompt", "error"),
    [([265], ModelError), ([-1], ModelError), (["a"], SchemeError), ("x" * 20, LimitError), ("caf\udce9", FormatError)],
)
def test_what_cannot_be_continued(prompt: Any, error: type[Exception], byte_level: Any) -> None:
    stepper = HashStepper(265, context=20)
    with pytest.raises(error, match=r"expected .*, got"):
        prompt_ids(prompt, byte_level, stepper, 262)
    with pytest.raises(ModelError):
        prompt_ids("", byte_level, stepper, 300)
    assert not stepper.rows
