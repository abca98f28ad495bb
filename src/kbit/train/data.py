"""Text files → tokens, written once → windows in an order that only the seed decides.

The tokens of all documents stand one after another, each document ended by the tokenizer's end-of-text token, in a file beside the
models whose name is the digest of the texts, the tokenizer and the separator. It is mapped, so that a text of any size takes no memory.
Window w holds tokens w · context … (w + 1) · context, the last of which is only predicted. Epoch e takes the windows in the order of
`numpy.random.default_rng([seed, e])`: what a step reads follows from its number alone, and so does where a resumed run goes on.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from kbit.core.digest import digest_file, digest_json
from kbit.core.errors import FormatError, MissingExtraError, ModelError, ShapeError, StorageError
from kbit.core.files import atomic_write, open_regular, storage_errors
from kbit.core.progress import Progress

__all__ = ["TokenStream", "end_of_text", "prepare_tokens", "read_training_text", "text_files"]

SUFFIXES = (".txt", ".txt.zst")
#: documents tokenized at once, on all cores
_DOCUMENTS = 8
_END_NAMES = ("<|endoftext|>", "</s>", "<eos>", "[SEP]")


def text_files(paths: Iterable[Path]) -> list[Path]:
    """The files themselves; a folder stands for its ``*.txt`` and ``*.txt.zst`` in order of name.

    Raises:
        StorageError: a folder without any, or a file that is not there.
        FormatError: a file of another kind.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES)) if path.is_dir() else [path]
        if not inside:
            raise StorageError(f"expected *.txt or *.txt.zst files in {path}, got none")
        found += inside
    for file in found:
        if not file.name.endswith(SUFFIXES):
            raise FormatError(f"{file}: expected a text (.txt or .txt.zst), got {file.suffix or 'no suffix'}")
        if not file.is_file():
            raise StorageError(f"{file}: expected a text file, got none")
    return found


def read_training_text(path: Path) -> str:
    """The text of a file.

    Raises:
        FormatError: it is not UTF-8, or not zstandard where its name says so.
        MissingExtraError: a ``.zst`` without the zstandard package.
        StorageError: it cannot be read.
    """
    with open_regular(path) as file, storage_errors(path, "read"):
        data = file.read()
    if path.suffix == ".zst":
        data = _decompressed(data, path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected UTF-8, got byte 0x{data[error.start]:02x} at offset {error.start} ({error.reason})") from None


def _decompressed(data: bytes, path: Path) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise MissingExtraError("zstandard", "train") from None
    try:
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return bytes(reader.read())
    except zstandard.ZstdError as error:
        raise FormatError(f"{path}: expected zstandard: {error}") from None


@dataclass(frozen=True, slots=True, eq=False)
class TokenStream:
    """Tokens of all documents, uint16 or uint32 [tokens], and the digest of what they were made from."""

    ids: NDArray[np.integer]
    digest: str

    def windows(self, numbers: Sequence[int], context: int) -> NDArray[np.int64]:
        """Windows by number, int64 [windows, context + 1]: inputs are all but the last token, targets all but the first."""
        return np.stack([self.ids[number * context : (number + 1) * context + 1].astype(np.int64) for number in numbers])

    def batch(self, step: int, windows: int, context: int, seed: int) -> list[int]:
        """Numbers of the windows of one step.

        Raises:
            ShapeError: fewer tokens than one window.
        """
        count = (len(self.ids) - 1) // context
        if count < 1:
            raise ShapeError(f"expected a training text of at least {context + 1} tokens, got {len(self.ids)}")
        places = (divmod(step * windows + index, count) for index in range(windows))
        return [int(_order(seed, epoch, count)[place]) for epoch, place in places]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def prepare_tokens(
    paths: Iterable[Path], tokenizer: Tokenizer, separator: str, folder: Path, *, progress: bool | None = False
) -> TokenStream:
    """The tokens of text files, from `folder` where an earlier run left them there.

    Args:
        paths: files and folders of texts.
        tokenizer: with an end-of-text token.
        separator: divides a file into documents; empty for one document a file.
        folder: where ``tokens-<digest>.npy`` lies or is written.
        progress: as `Progress`.

    Raises:
        FormatError, StorageError, MissingExtraError: texts that cannot be read.
        ModelError: the tokenizer has no end-of-text token.
    """
    files = text_files(paths)
    backend = Tokenizer.from_str(tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    end = end_of_text(backend)
    texts = [digest_file(file) for file in files]
    digest = digest_json({"texts": texts, "tokenizer": backend.to_str(), "separator": separator, "end": end})
    path = folder / f"tokens-{digest[:16]}.npy"
    if not path.exists():
        dtype = np.uint16 if backend.get_vocab_size() <= 1 << 16 else np.uint32
        ids = np.concatenate([np.array(part, dtype) for part in _tokenized(files, backend, separator, end, progress)])
        with atomic_write(path) as file:
            np.save(file, ids)
    return TokenStream(np.load(path, mmap_mode="r"), digest)


def _tokenized(files: Sequence[Path], backend: Tokenizer, separator: str, end: int, progress: bool | None) -> Iterator[list[int]]:
    for file in files:
        text = read_training_text(file)
        documents = [document for document in (text.split(separator) if separator else [text]) if document.strip()]
        if not documents:
            raise FormatError(f"{file}: expected a text, got an empty file")
        with Progress(sum(map(len, documents)), "characters", f"tokenize {file.name}", enabled=progress) as line:
            for part in _batched(documents):
                for encoding in backend.encode_batch_fast(list(part), add_special_tokens=False):
                    yield [*encoding.ids, end]
                line.advance(sum(map(len, part)))


def _batched(items: Sequence[str]) -> Iterator[Sequence[str]]:
    return (items[begin : begin + _DOCUMENTS] for begin in range(0, len(items), _DOCUMENTS))


def end_of_text(backend: Tokenizer) -> int:
    """The token that ends a document.

    Raises:
        ModelError: the tokenizer has none.
    """
    for name in _END_NAMES:
        if (token := backend.token_to_id(name)) is not None:
            return int(token)
    raise ModelError(f"expected a tokenizer with an end-of-text token ({', '.join(_END_NAMES)}), got one without")
