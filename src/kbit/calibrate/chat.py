"""Conversations as the text that a model would see them as: rendered by the chat template of its tokenizer."""

from pathlib import Path
from typing import Any

from kbit.core.errors import FormatError, ModelError

__all__ = ["ChatTemplate"]


class ChatTemplate:
    """The chat template of a model's folder; it is read when it is first used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokenizer: Any = None

    def render(self, messages: Any, source: str) -> str:
        """`messages`, a list of ``{"role": …, "content": …}``, as one text; templates run in the sandbox of transformers.

        Args:
            messages: what a line of the file holds.
            source: what errors call that line.

        Raises:
            ModelError: the folder has no chat template.
            FormatError: `messages` is something else, or nothing that the template takes.
        """
        if not isinstance(messages, list) or not messages or not all(_is_message(one) for one in messages):
            raise FormatError(f"{source}: expected 'messages' as a list of objects with a 'role' and a 'content', both texts")
        if self._tokenizer is None:
            self._tokenizer = self._load()
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # a template raises whatever it likes
            raise FormatError(f"{source}: the chat template does not take these messages: {error}") from None
        return str(text)

    def _load(self) -> Any:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)
        except (ValueError, OSError, KeyError) as error:
            raise ModelError(f"{self._folder}: its tokenizer cannot be loaded for a chat template: {error}") from None
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(f"{self._folder}: its tokenizer has no chat template, which 'messages' need: give lines with a 'text' instead")
        return tokenizer


def _is_message(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
