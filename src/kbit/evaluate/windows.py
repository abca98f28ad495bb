"""Text → tokens → windows, with the protocol of a measurement written down.

A text is tokenised once, as a whole. Let s be its tokens (after an optional BOS). Window i reads
`inputs = s[i·stride : i·stride + context]` and predicts `targets = s[i·stride + 1 : i·stride + context + 1]`; of the targets
those that no earlier window scored are scored, so each token is scored exactly once. With `stride = context` windows do
not overlap; a smaller stride gives every scored token at least `context − stride` tokens before it. The last window may be short.

BOS is explicit, since it moves perplexity:

    none     no BOS; the first token of the text has nothing before it and is not scored
    text     one BOS before the text, as a tokenizer adds it; all tokens are scored
    window   every window starts with BOS and `context − 1` tokens of text; all tokens are scored

Bytes are exact: a token owns the UTF-8 bytes from the end of the token before it to its own end (white space that a
tokenizer drops belongs to the token after it; a character split over several tokens to the first of them), so the bytes of
all tokens add up to the bytes of the text.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from kbit.core.digest import digest_bytes, digest_json
from kbit.core.errors import FormatError, ModelError, SchemeError, ShapeError, StorageError
from kbit.core.files import open_regular, storage_errors

__all__ = ["Bos", "Protocol", "TokenizedText", "Window", "Windows", "read_text", "tokenize"]

Bos = Literal["none", "text", "window"]


@dataclass(frozen=True, slots=True)
class Protocol:
    """All that must be equal for two perplexities to be comparable.

    Attributes:
        context: tokens a window reads.
        stride: tokens from one window to the next; `context − stride` tokens of a window are context only.
        bos: where a beginning-of-sequence token stands (see the module).
        windows: number of windows.
        tokens: tokens scored.
        bytes: UTF-8 bytes of the text scored.
        text_sha256: SHA-256 of the whole text, also when only a part of it is scored.
        tokenizer_sha256: SHA-256 of the tokenizer's canonical JSON.
    """

    context: int
    stride: int
    bos: Bos
    windows: int
    tokens: int
    bytes: int
    text_sha256: str
    tokenizer_sha256: str

    @property
    def text(self) -> str:
        """One line to print beside a figure."""
        amount = f"{self.tokens:,} tokens ({self.bytes:,} bytes) in {self.windows:,} windows"
        digests = f"text {self.text_sha256[:12]}, tokenizer {self.tokenizer_sha256[:12]}"
        return f"context {self.context}, stride {self.stride}, BOS {self.bos}, {amount}, {digests}"

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text as tokens, with the bytes each token stands for.

    Attributes:
        ids: token ids, int64.
        byte_ends: int64, one longer than `ids`: token i stands for bytes `byte_ends[i]` to `byte_ends[i + 1]` of the text.
        bos_id: id of the beginning-of-sequence token; None where the tokenizer adds none and none was given.
        text_sha256, tokenizer_sha256: digests for the protocol.
    """

    ids: NDArray[np.int64]
    byte_ends: NDArray[np.int64]
    bos_id: int | None
    text_sha256: str
    tokenizer_sha256: str


@dataclass(frozen=True, slots=True)
class Window:
    """`inputs` and `targets` have one length ≤ context; targets before `first` are context only."""

    index: int
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    first: int

    @property
    def scored(self) -> NDArray[np.int64]:
        """The targets that this window scores."""
        return self.targets[self.first :]


def read_text(*paths: Path | str) -> str:
    """The files one after another, byte for byte as `cat` joins them; a folder stands for its ``*.txt`` in order of name.

    Raises:
        FormatError: an empty file, or bytes that are not UTF-8 (with their offset).
        StorageError: a file that cannot be read.
    """
    return "".join(_read_one(file) for path in paths for file in _expand(Path(path)))


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.txt"))
    if not files:
        raise StorageError(f"expected *.txt files in {path}, got none")
    return files


def _read_one(path: Path) -> str:
    with open_regular(path) as file, storage_errors(path, "read"):
        data = file.read()
    if not data:
        raise FormatError(f"{path}: expected a text, got an empty file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected UTF-8, got byte 0x{data[error.start]:02x} at offset {error.start} ({error.reason})") from None


def tokenize(text: str, tokenizer: Any, *, bos_id: int | None = None) -> TokenizedText:
    """Tokens of the whole text, without special tokens added.

    Args:
        text: the text.
        tokenizer: a `tokenizers.Tokenizer`, or a transformers tokenizer that has one inside (`backend_tokenizer`).
        bos_id: the BOS id; by default the one that the tokenizer itself puts before a text, if any.
    """
    backend = _backend(tokenizer)
    try:
        encoding = backend.encode(text, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError):
        raise FormatError("expected a text that UTF-8 can hold, got one with lone surrogates") from None
    return TokenizedText(
        ids=np.array(encoding.ids, dtype=np.int64),
        byte_ends=_byte_ends(text, encoding.offsets),
        bos_id=_own_bos(backend) if bos_id is None else bos_id,
        text_sha256=digest_bytes(text.encode()),
        tokenizer_sha256=digest_json(json.loads(backend.to_str())),
    )


def _backend(tokenizer: Any) -> Tokenizer:
    """A copy without truncation and padding, so that the caller's tokenizer stays as it was."""
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(inner, Tokenizer):
        raise ModelError(f"expected a tokenizer with a tokenizer.json (fast), got {type(tokenizer).__name__}")
    backend = Tokenizer.from_str(inner.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def _own_bos(backend: Tokenizer) -> int | None:
    bare, full = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
    return int(full[0]) if len(full) > len(bare) and full[1 : 1 + len(bare)] == bare else None


def _byte_ends(text: str, offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    byte_of = np.concatenate([[0], np.cumsum(widths)])
    ends = np.zeros(len(offsets) + 1, dtype=np.int64)
    if offsets:
        ends[1:] = byte_of[np.maximum.accumulate(np.array(offsets, dtype=np.int64)[:, 1])]
        ends[-1] = byte_of[-1]
    return ends


class Windows(Sequence[Window]):
    """The windows of a tokenised text; `protocol` says how they were cut.

    Args:
        text: tokens of the text.
        context: tokens a window reads.
        stride: tokens from one window to the next, 1…context; context by default.
        bos: "none", "text" or "window"; by default "text" where the tokenizer adds a BOS of its own, else "none".
        limit_tokens: score at most the first so many tokens of the text.

    Raises:
        ShapeError: a context, stride or limit that does not fit, or a text shorter than one window.
        ModelError: a BOS asked for where the tokenizer has none.
    """

    def __init__(
        self, text: TokenizedText, *, context: int = 512, stride: int | None = None, bos: Bos | None = None, limit_tokens: int | None = None
    ) -> None:
        stride = context if stride is None else stride
        bos = _checked_bos(text, bos)
        if context < 2:
            raise ShapeError(f"expected a context of at least 2 tokens, got {context}")
        if not 1 <= stride <= context:
            raise ShapeError(f"expected a stride in 1…{context} (the context), got {stride}")
        self._context, self._stride = context, stride
        self._unscored = 1 if bos == "none" else 0
        self._bos_inside = [text.bos_id] if bos == "window" else []
        end = len(text.ids) if limit_tokens is None else min(len(text.ids), limit_tokens + self._unscored)
        self._tokens = end - self._unscored
        if self._tokens < context:
            least = f"{context + self._unscored} tokens at context {context}, BOS {bos}"
            raise ShapeError(f"expected a text of at least one window ({least}), got {max(end, 0)} tokens")
        self._stream = text.ids[:end] if bos != "text" else np.concatenate([np.array([text.bos_id]), text.ids[:end]])
        self._byte_ends = text.byte_ends[self._unscored : end + 1]
        self.protocol = Protocol(
            context=context,
            stride=stride,
            bos=bos,
            windows=1 + -(-(self._tokens - context) // stride),
            tokens=self._tokens,
            bytes=int(self._byte_ends[-1] - self._byte_ends[0]),
            text_sha256=text.text_sha256,
            tokenizer_sha256=text.tokenizer_sha256,
        )

    def __len__(self) -> int:
        return self.protocol.windows

    def __iter__(self) -> Iterator[Window]:
        return (self._window(index) for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._window(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        return self._window(index % len(self))

    def _span(self, index: int) -> tuple[int, int, int]:
        """Window `index` predicts tokens begin…end of those scored and scores them from `first` on."""
        begin = index * self._stride
        end = min(begin + self._context, self._tokens)
        first = begin + self._context - self._stride if index else 0
        return begin, first, end

    def _window(self, index: int) -> Window:
        begin, first, end = self._span(index)
        if self._bos_inside:
            targets = self._stream[begin:end]
            inputs = np.concatenate([np.array(self._bos_inside, dtype=np.int64), targets[:-1]])
        else:
            inputs, targets = self._stream[begin:end], self._stream[begin + 1 : end + 1]
        return Window(index, inputs, targets, first - begin)

    def scored_tokens(self) -> NDArray[np.int64]:
        """Tokens that each window scores, int64 [windows]; their sum is `protocol.tokens`."""
        return np.array([end - first for _, first, end in map(self._span, range(len(self)))], dtype=np.int64)

    def scored_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes that each window scores, int64 [windows]; their sum is `protocol.bytes`."""
        ends = self._byte_ends
        return np.array([ends[end] - ends[first] for _, first, end in map(self._span, range(len(self)))], dtype=np.int64)

    @property
    def largest_id(self) -> int:
        """The largest token id, to be held against a model's vocabulary."""
        return int(self._stream.max())


def _checked_bos(text: TokenizedText, bos: Bos | None) -> Bos:
    if bos is None:
        return "none" if text.bos_id is None else "text"
    if bos not in get_args(Bos):
        raise SchemeError(f"expected bos to be none, text or window, got {bos!r}")
    if bos != "none" and text.bos_id is None:
        raise ModelError(f"expected a tokenizer with a BOS token for bos={bos!r}, got one that adds none; give bos_id")
    return bos
