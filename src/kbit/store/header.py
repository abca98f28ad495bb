"""The header of a container: scanned without trust, and written in one form.

A container is a safetensors file: 8 bytes of little-endian header length N, N bytes of JSON, then the tensors without holes. The JSON
of a header is a regular language (two levels, three fields a tensor), so it is scanned here by a handful of expressions with possessive
quantifiers: time and memory are linear in the file, nothing recurses, no number becomes a float, and every refusal knows its byte.
A general JSON parser would build whatever an attacker nests before anybody could look at it.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import NamedTuple

import numpy as np

from kbit.core.errors import FormatError, LimitError
from kbit.core.strict_json import held_bytes

__all__ = [
    "ALIGNMENT",
    "DTYPES",
    "LARGEST",
    "METADATA_KEY",
    "Header",
    "Limits",
    "TensorEntry",
    "TensorSpec",
    "build_header",
    "near",
    "scan_header",
]

#: dtype tag → how numpy holds it; types that numpy lacks are held as unsigned integers of their size, and the tag tells them apart
DTYPES: Mapping[str, np.dtype[np.generic]] = {
    tag: np.dtype(code)
    for tag, code in {
        "BOOL": "u1", "U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1",
        "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
        "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
    }.items()
}  # fmt: skip

METADATA_KEY = "__metadata__"
ALIGNMENT = 64
LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader accepts. The defaults keep a hostile header under 64 MiB of memory; safetensors' own header cap is 100 MB.

    Attributes:
        header_bytes: of the header.
        tensors: in a file.
        metadata_entries: keys of the metadata.
        name_bytes: of one name.
        value_bytes: of one metadata value as Python holds it: 1, 2 or 4 bytes a character, whichever its widest one needs.
        text_bytes: of all names and values, counted in the same way.
        rank: dimensions of a tensor.
    """

    header_bytes: int = 16_000_000
    tensors: int = 100_000
    metadata_entries: int = 1_000
    name_bytes: int = 1_024
    value_bytes: int = 6 << 20
    text_bytes: int = 12 << 20
    rank: int = 8


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor will be, before it is written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class TensorEntry(NamedTuple):
    """Where a tensor lies. `offset` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Header(NamedTuple):
    """A scanned header: tensors in file order, and the metadata."""

    entries: dict[str, TensorEntry]
    metadata: dict[str, str]


def near(name: str, names: Iterable[str]) -> str:
    """A clause with the closest of the first names, or nothing: a message must not list a hundred thousand tensors."""
    close = get_close_matches(name, list(islice(names, 2_000)), n=1)
    return f": did you mean {close[0]!r}?" if close else ""


_WS = rb"[ \t\r\n]*+"
_INT = rb"(?:0|[1-9][0-9]{0,18})"
_STRING = rb'"([^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+)"'
_KEY = re.compile(_WS + _STRING + _WS + rb":" + _WS)
_OPEN = re.compile(_WS + rb"\{")
_TEXT = re.compile(_STRING)
_NEXT = re.compile(_WS + rb"([,}])")
_EMPTY = re.compile(_WS + rb"\}")
_PADDING = re.compile(rb" *+\Z")
_DTYPE = re.compile(rb'"([A-Za-z0-9_]{1,16})"')
_SHAPE = re.compile(rb"\[" + _WS + rb"((?:" + _INT + _WS + rb"(?:," + _WS + _INT + _WS + rb")*+)?)\]")
_OFFSETS = re.compile(rb"\[" + _WS + rb"(" + _INT + rb")" + _WS + rb"," + _WS + rb"(" + _INT + rb")" + _WS + rb"\]")
_USUAL = re.compile(  # a tensor as every writer writes it, in one step; any other order or spacing takes the long way
    rb'\{"dtype":' + _DTYPE.pattern + rb',"shape":' + _SHAPE.pattern + rb',"data_offsets":' + _OFFSETS.pattern + rb"\}"
)
_FIELDS = {b"dtype": _DTYPE, b"shape": _SHAPE, b"data_offsets": _OFFSETS}
_WANTED = {
    b"dtype": "a dtype tag",
    b"shape": f"a list of integers in 0…{LARGEST}",
    b"data_offsets": f"two integers in 0…{LARGEST}",
}


class _Scanner:
    """A place in the file's first bytes (length field and header), and the errors that name it."""

    def __init__(self, head: bytes, path: str, limits: Limits) -> None:
        self.data, self.path, self.limits = head, path, limits
        self.at = 8
        self._text_bytes = 0
        self._shapes: dict[bytes, tuple[int, ...]] = {}

    def fail(self, what: str, at: int | None = None) -> FormatError:
        place = self.at if at is None else at
        return FormatError(f"{self.path}: header at byte {place}: {what}, got {self.data[place : place + 40]!r}")

    def beyond(self, what: str, match: re.Match[bytes]) -> LimitError:
        return LimitError(f"{self.path}: header at byte {match.start(1)}: {what}")

    def take(self, pattern: re.Pattern[bytes], what: str, where: str) -> re.Match[bytes]:
        match = pattern.match(self.data, self.at)
        if match is None:
            raise self.fail(f"{where}: expected {what}")
        self.at = match.end()
        return match

    def name(self, match: re.Match[bytes]) -> str:
        """The name in a match, its escapes resolved."""
        most = self.limits.name_bytes
        if match.end(1) - match.start(1) > 6 * most:  # an escape spends at most six bytes on one
            raise self.beyond(f"a name of more than {most} bytes", match)
        value = self._text(match)
        if len(value) > most or len(value.encode()) > most:
            raise self.beyond(f"a name of more than {most} bytes", match)
        if not value or not value.isprintable():
            raise self.fail("a name is empty or holds control characters", match.start(1))
        return value

    def value(self, match: re.Match[bytes]) -> str:
        """The metadata value in a match, its escapes resolved."""
        if held_bytes(self.data, *match.span(1)) > self.limits.value_bytes:
            raise self.beyond(f"a metadata value of more than {self.limits.value_bytes} bytes in memory (Limits.value_bytes)", match)
        value = self._text(match)
        if "\0" in value:
            raise self.fail("a string holds NUL", match.start(1))
        return value

    def _text(self, match: re.Match[bytes]) -> str:
        begin, end = match.span(1)
        self._text_bytes += held_bytes(self.data, begin, end)
        if self._text_bytes > self.limits.text_bytes:
            raise self.beyond(f"names and values of more than {self.limits.text_bytes} bytes in memory (Limits.text_bytes)", match)
        try:
            if self.data.find(b"\\", begin, end) < 0:
                return str(memoryview(self.data)[begin:end], "utf-8")
            value = str(json.loads(self.data[begin - 1 : end + 1]))
            value.encode()  # refuses an unpaired surrogate
        except UnicodeError as error:
            raise self.fail(f"a string is not UTF-8 ({error.__class__.__name__})", begin) from None
        return value

    def members(self, what: str) -> Iterable[re.Match[bytes]]:
        """The keys of an object, one after another; the caller takes each value before it asks for the next."""
        self.take(_OPEN, "an object", what)
        if match := _EMPTY.match(self.data, self.at):
            self.at = match.end()
            return
        while True:
            yield self.take(_KEY, "a key", what)
            if self.take(_NEXT, "',' or '}'", what)[1] == b"}":
                return

    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for match in self.members(METADATA_KEY):
            key = self.name(match)
            if key in found:
                raise self.fail(f"metadata key {key!r} appears twice", match.start())
            if len(found) >= self.limits.metadata_entries:
                raise LimitError(f"{self.path}: more than {self.limits.metadata_entries} metadata entries")
            found[key] = self.value(self.take(_TEXT, "a string", f"metadata key {key!r}"))
        return found

    def tensor(self, name: str) -> tuple[str, tuple[int, ...], int, int]:
        start = self.at
        if usual := _USUAL.match(self.data, start):
            self.at = usual.end()
            return self._dtype(name, usual[1], start), self._shape(name, usual[2], start), int(usual[3]), int(usual[4])
        values: dict[bytes, re.Match[bytes]] = {}
        for match in self.members(f"tensor {name!r}"):
            field = match[1]
            if field not in _FIELDS or field in values:
                raise self.fail(f"tensor {name!r}: expected each of dtype, shape, data_offsets once", match.start())
            values[field] = self.take(_FIELDS[field], _WANTED[field], f"tensor {name!r}: field {field.decode()!r}")
        if len(values) != len(_FIELDS):
            raise self.fail(f"tensor {name!r}: expected each of dtype, shape, data_offsets once", start)
        dtype, shape, offsets = (values[field] for field in _FIELDS)
        return self._dtype(name, dtype[1], dtype.start()), self._shape(name, shape[1], shape.start()), int(offsets[1]), int(offsets[2])

    def _dtype(self, name: str, raw: bytes, at: int) -> str:
        tag = raw.decode()
        if tag not in DTYPES:
            raise self.fail(f"tensor {name!r}: field 'dtype': expected one of {', '.join(DTYPES)}", at)
        return tag

    def _shape(self, name: str, raw: bytes, at: int) -> tuple[int, ...]:
        if raw not in self._shapes:  # few shapes, many tensors
            if raw.count(b",") >= self.limits.rank:
                raise LimitError(f"{self.path}: header at byte {at}: tensor {name!r}: more than {self.limits.rank} dimensions")
            shape = tuple(int(part) for part in raw.split(b",")) if raw else ()
            if not all(0 < dimension <= LARGEST for dimension in shape):
                raise self.fail(f"tensor {name!r}: field 'shape': expected dimensions in 1…{LARGEST}", at)
            self._shapes[raw] = shape
        return self._shapes[raw]


def scan_header(head: bytes, data_bytes: int, path: str, limits: Limits) -> Header:
    """Read `head`, the length field and header of a file with `data_bytes` bytes of tensors after them.

    Raises:
        FormatError: with file, field and offset, for whatever is not a header without holes, overlaps or repetitions.
        LimitError: beyond `limits`.
    """
    scanner = _Scanner(head, path, limits)
    raw: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    metadata: dict[str, str] | None = None
    if not head.startswith(b"{", 8):
        raise scanner.fail("expected '{'")
    for match in scanner.members("header"):
        name = scanner.name(match)
        if name in raw or (name == METADATA_KEY and metadata is not None):
            raise scanner.fail(f"{name!r} appears twice", match.start())
        if name == METADATA_KEY:
            metadata = scanner.metadata()
            continue
        if len(raw) >= limits.tensors:
            raise LimitError(f"{path}: more than {limits.tensors} tensors")
        raw[name] = scanner.tensor(name)
    scanner.take(_PADDING, "only spaces after the last '}'", "header")
    return Header(_place(raw, len(head), data_bytes, path), metadata or {})


def _place(raw: dict[str, tuple[str, tuple[int, ...], int, int]], start: int, data_bytes: int, path: str) -> dict[str, TensorEntry]:
    """Entries in file order, each held to begin where the one before it ends."""
    entries: dict[str, TensorEntry] = {}
    expected = 0
    for name in sorted(raw, key=lambda key: raw[key][2]):
        dtype, shape, begin, end = raw.pop(name)
        nbytes = math.prod(shape) * DTYPES[dtype].itemsize
        if begin != expected or end - begin != nbytes:
            raise FormatError(
                f"{path}: tensor {name!r}: field 'data_offsets': expected [{expected}, {expected + nbytes}] "
                f"({dtype} of shape {list(shape)}, no holes or overlaps), got [{begin}, {end}]"
            )
        entries[name] = TensorEntry(dtype, shape, start + begin, nbytes)
        expected = end
    if expected != data_bytes:
        raise FormatError(f"{path}: expected {expected} bytes of tensors after byte {start}, got {data_bytes}")
    return entries


def build_header(specs: Iterable[TensorSpec], metadata: Mapping[str, str], length: int | None = None) -> bytes:
    """Length field and header, the metadata in the given order, tensors one after another, spaces up to `length` (or to 64 bytes).

    Raises:
        LimitError: if the header does not fit into `length` bytes.
    """
    header: dict[str, object] = {METADATA_KEY: dict(metadata)} if metadata else {}
    end = 0
    for spec in specs:
        begin, end = end, end + spec.nbytes
        header[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    wanted = -(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT - 8 if length is None else length
    if len(text) > wanted:
        raise LimitError(f"a header of {len(text)} bytes does not fit into the {wanted} bytes reserved for it")
    return wanted.to_bytes(8, "little") + text.ljust(wanted)
