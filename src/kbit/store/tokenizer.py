"""The tokenizer in a model's folder."""

from pathlib import Path

from tokenizers import Tokenizer

from kbit.core.errors import FormatError
from kbit.core.files import open_regular, storage_errors

__all__ = ["load_tokenizer"]


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model's folder, from its ``tokenizer.json``.

    Raises:
        StorageError: there is none.
        FormatError: it is not a tokenizer.
    """
    file = path / "tokenizer.json"
    with open_regular(file) as opened, storage_errors(file, "read"):
        data = opened.read()
    try:
        return Tokenizer.from_buffer(data)
    except Exception as error:  # the Rust side raises bare exceptions
        raise FormatError(f"{file}: expected a tokenizer: {error}") from None
