"""Prompts as token ids, checked against model and tokenizer before any step."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from kbit.core.errors import FormatError, ModelError
from kbit.engine.request import check_prompt
from kbit.engine.stepper import Stepper

__all__ = ["Prompt", "prompt_ids", "text_ids"]

#: a text, or token ids
Prompt = str | Sequence[int]


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer, stepper: Stepper, bos: int | None) -> tuple[int, ...]:
    """The ids of a prompt; a text gets the special tokens that its tokenizer adds, an empty prompt is the token that begins a text.

    Raises:
        ModelError: an empty prompt, and no `bos`; a token outside the vocabulary.
        LimitError: a prompt that leaves no room in the context.
        FormatError: a text that UTF-8 cannot hold.
        SchemeError: ids that are no whole numbers.
    """
    ids = text_ids(prompt, tokenizer) if isinstance(prompt, str) else list(prompt)
    return check_prompt(ids or _beginning(bos), stepper)


def _beginning(bos: int | None) -> list[int]:
    if bos is None:
        raise ModelError("expected a prompt of at least one token, got none, and the model has no token to begin a text with")
    return [bos]


def text_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a text, with the special tokens that its tokenizer adds.

    Raises:
        FormatError: a text that UTF-8 cannot hold.
    """
    try:
        return list(tokenizer.encode(text).ids)
    except (TypeError, UnicodeEncodeError):
        raise FormatError("expected a prompt that UTF-8 can hold, got one with lone surrogates") from None
