"""Calibration text: files → windows of tokens, the same for the same files, tokenizer and seed.

A file is UTF-8 text, or, called ``*.jsonl``, an object a line with its ``text`` or, for a model that has a chat template, with
``messages``; documents are joined by a blank line. Files of token ids (`kbit.calibrate.tokens`) stand for themselves. The whole is cut
into stretches long enough for a few windows; the seed puts them in order, and each gives its first window before any gives a second,
so that a few windows come from all over a long text and only as much of it is tokenized as is used.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from kbit.calibrate.chat import ChatTemplate
from kbit.calibrate.tokens import TOKEN_SUFFIXES, cut_windows, read_tokens
from kbit.core.digest import digest_json
from kbit.core.errors import FormatError, ModelError, SchemeError, ShapeError
from kbit.core.files import open_regular, storage_errors
from kbit.core.strict_json import parse_json

__all__ = ["CalibrationText", "CalibrationWindows", "check_amounts", "draw_windows", "read_documents"]

#: characters of a stretch for each token of a window: room for two windows and more
_CHARACTERS_A_TOKEN = 12


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationWindows:
    """Tokens to calibrate on.

    Attributes:
        ids: token ids, int64 [windows, context].
        seed: what put them in order.
    """

    ids: NDArray[np.int64]
    seed: int = 0

    def __post_init__(self) -> None:
        ids = self.ids
        if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or ids.ndim != 2 or 0 in ids.shape:
            got = f"{ids.dtype} of shape {list(ids.shape)}" if isinstance(ids, np.ndarray) else type(ids).__name__
            raise ShapeError(f"expected calibration tokens as an integer array [windows, context], got {got}")
        if int(ids.min()) < 0:
            raise ShapeError(f"expected token ids of at least 0, got {int(ids.min())}")
        object.__setattr__(self, "ids", np.ascontiguousarray(ids, np.int64))

    @property
    def digest(self) -> str:
        """SHA-256 hex of the tokens and how they are cut."""
        return digest_json({"shape": list(self.ids.shape), "ids": self.ids.ravel().tolist()})

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self.ids.size)


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """Files to calibrate on, and how much of them.

    Attributes:
        paths: text files (UTF-8), ``*.jsonl`` files with a ``text`` or ``messages`` a line, or files of token ids (``*.npy``, ``*.bin``).
        tokens: about so many tokens are used: whole windows, at least one, fewer where the text has no more.
        context: tokens a window; a model with fewer positions takes windows of that many.
        seed: which stretches of the text come first.
    """

    paths: tuple[str | Path, ...]
    tokens: int = 131_072
    context: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        paths = (self.paths,) if isinstance(self.paths, str | Path) else tuple(self.paths)
        object.__setattr__(self, "paths", paths)
        if not paths:
            raise SchemeError("expected at least one calibration file, got none")
        check_amounts(self)
        if len({Path(path).suffix in TOKEN_SUFFIXES for path in paths}) > 1:
            raise SchemeError("expected calibration files of text or of token ids, got both: each kind is cut into windows in its own way")

    @property
    def is_tokens(self) -> bool:
        """Whether the files hold token ids, so that no tokenizer is needed."""
        return Path(self.paths[0]).suffix in TOKEN_SUFFIXES

    def windows(
        self,
        tokenizer: Tokenizer | None,
        *,
        positions: int | None = None,
        vocabulary: int | None = None,
        chat: ChatTemplate | None = None,
    ) -> CalibrationWindows:
        """The windows for a model with this tokenizer.

        Args:
            tokenizer: the model's; files of token ids need none.
            positions: how many it has; None for any number.
            vocabulary: entries of its vocabulary, by which token ids are checked.
            chat: what renders ``messages``.

        Raises:
            StorageError, FormatError: a file that cannot be read as what it should be.
            ModelError: ``messages`` without a chat template.
            ShapeError: a text shorter than one window.
        """
        context = self.context if positions is None else min(self.context, positions)
        if self.is_tokens:
            files = [read_tokens(Path(path), vocabulary) for path in self.paths]
            return CalibrationWindows(cut_windows(files, tokens=self.tokens, context=context, seed=self.seed), self.seed)
        if tokenizer is None:
            raise ModelError("expected a tokenizer for a calibration text, got none")
        documents = [document for path in self.paths for document in read_documents(Path(path), chat)]
        ids = draw_windows(documents, tokenizer, tokens=self.tokens, context=context, seed=self.seed)
        return CalibrationWindows(ids, self.seed)


def check_amounts(given: Any) -> None:
    """Refuse `tokens`, `context` or `seed` of `given` that are no such numbers.

    Raises:
        SchemeError: names the first.
    """
    for name, least in (("tokens", 1), ("context", 2), ("seed", 0)):
        value = getattr(given, name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise SchemeError(f"expected calibration {name} as an integer of at least {least}, got {value!r}")


def read_documents(path: Path, chat: ChatTemplate | None = None) -> list[str]:
    """The documents of a file: the whole of a text, or of each line of a ``*.jsonl`` its ``text``, or its ``messages`` as `chat` has them.

    Raises:
        StorageError: it cannot be read.
        FormatError: it is empty or not UTF-8, or a line is no JSON object with a text or messages; names file and line.
    """
    with open_regular(path) as file, storage_errors(path, "read"):
        data = file.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected UTF-8, got byte 0x{data[error.start]:02x} at offset {error.start} ({error.reason})") from None
    if not text.strip():
        raise FormatError(f"{path}: expected a calibration text, got an empty file")
    if path.suffix != ".jsonl":
        return [text]
    return [_document(line, f"{path}, line {number}", chat) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _document(line: str, source: str, chat: ChatTemplate | None) -> str:
    value = parse_json(line.encode(), source)
    if isinstance(value, dict) and "messages" in value and chat is not None:
        return chat.render(value["messages"], source)
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise FormatError(f"{source}: expected an object with a 'text', got {_kind(value)}")
    return text


def _kind(value: Any) -> str:
    return f"one with {', '.join(map(repr, list(value)[:4])) or 'nothing'}" if isinstance(value, dict) else type(value).__name__


def draw_windows(documents: Sequence[str], tokenizer: Tokenizer, *, tokens: int, context: int, seed: int) -> NDArray[np.int64]:
    """Windows of token ids [windows, context], about `tokens` tokens in all; each begins with the BOS token where the tokenizer adds one.

    Raises:
        ShapeError: the text is shorter than one window.
        ModelError: the tokenizer's BOS leaves no room in a window.
    """
    backend = Tokenizer.from_str(tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    start = _bos(backend)
    length = context - len(start)
    if length < 1:
        raise ModelError(f"expected a context beyond the tokenizer's BOS, got {context}")
    wanted = max(1, tokens // context)
    windows: list[NDArray[np.int64]] = []
    for ids in _in_turns(_stretches("\n\n".join(documents), _CHARACTERS_A_TOKEN * length, seed), backend, length):
        windows.append(np.array([*start, *ids], np.int64))
        if len(windows) == wanted:
            break
    if not windows:
        raise ShapeError(f"expected a calibration text of at least one window of {context} tokens; it has fewer")
    return np.stack(windows)


def _stretches(text: str, characters: int, seed: int) -> list[str]:
    pieces = [text[begin : begin + characters] for begin in range(0, len(text), characters)]
    if len(pieces) > 1:  # the last is short, and may be too short for a window
        pieces[-2:] = [pieces[-2] + pieces[-1]]
    return [pieces[index] for index in np.random.default_rng(seed).permutation(len(pieces))]


def _in_turns(stretches: list[str], backend: Tokenizer, length: int) -> Iterator[list[int]]:
    """The first windows of all stretches, then all others."""
    rest: list[list[int]] = []
    for stretch in stretches:
        ids = backend.encode(stretch, add_special_tokens=False).ids
        whole = [ids[begin : begin + length] for begin in range(0, len(ids) - length + 1, length)]
        yield from whole[:1]
        rest += whole[1:]
    yield from rest


def _bos(backend: Tokenizer) -> list[int]:
    """What the tokenizer puts before a text."""
    bare, full = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
    extra = len(full) - len(bare)
    return full[:1] if extra > 0 and full[1 : 1 + len(bare)] == bare else []
