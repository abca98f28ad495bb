"""The bytes of a Huffman stream: writing them, and reading them from somebody one does not trust.

`kbit.entropy.huffman` draws the layout. `parse` believes nothing: every length is checked against the bytes that are there before
anything is allocated by it, and the code table must describe exactly one complete prefix code. What it returns is safe to decode:
the symbols declared fit the payload, which bounds the memory by a small multiple of the stream's size.
"""

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import FormatError, IntegrityError, LimitError

__all__ = [
    "CODES",
    "LONE_SYMBOL_LIMIT",
    "MAX_CODE_BITS",
    "MAX_SYMBOLS",
    "TEXT",
    "Stream",
    "check_shape",
    "lone_length",
    "parse",
    "serialise",
]

MAGIC = b"KBH1"
TEXT, CODES = 0, 1
#: longest code word; no stream of at most MAX_SYMBOLS symbols can need a longer one (see huffman.py)
MAX_CODE_BITS = 57
#: most symbols in one stream
MAX_SYMBOLS = 1 << 40
#: repetitions of a stream's only symbol that are stored in no bits at all; beyond it every one takes a bit
LONE_SYMBOL_LIMIT = 1 << 24
#: most dimensions of an array of codes
MAX_DIMENSIONS = 32

_HEAD = struct.Struct("<4sBBIQ")
_CHECKSUM = struct.Struct("<I")
_ENTRY = {
    TEXT: np.dtype([("symbol", "<u4"), ("length", "u1")]),
    CODES: np.dtype([("symbol", "u1"), ("length", "u1")]),
}


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A stream taken apart.

    Attributes:
        kind: `TEXT` or `CODES`.
        shape: shape of the array of codes, or the number of characters.
        symbols: `[n]`, the distinct symbols (code points, or codes), ascending.
        lengths: `[n]`, bits of each symbol's code word.
        payload: the code words one after another, first bit in the top bit of the first byte, the last byte filled up with 0.
        payload_bits: bits of the payload without the filling.
    """

    kind: int
    shape: tuple[int, ...]
    symbols: NDArray[np.uint32]
    lengths: NDArray[np.uint8]
    payload: NDArray[np.uint8]
    payload_bits: int

    @property
    def count(self) -> int:
        """Number of symbols that the payload holds."""
        return math.prod(self.shape)


def serialise(stream: Stream) -> bytes:
    """The bytes of a stream; the inverse of `parse`."""
    entries = np.empty(len(stream.symbols), _ENTRY[stream.kind])
    entries["symbol"], entries["length"] = stream.symbols, stream.lengths
    body = b"".join(
        (
            _HEAD.pack(MAGIC, stream.kind, len(stream.shape), len(entries), stream.payload_bits),
            np.array(stream.shape, "<u8").tobytes(),
            entries.tobytes(),
            stream.payload.tobytes(),
        )
    )
    return body + _CHECKSUM.pack(zlib.crc32(body))


def parse(data: bytes) -> Stream:
    """A stream from its bytes.

    Raises:
        FormatError: it is cut short, runs on, or says something that cannot be; the message names what and where.
        LimitError: it declares more symbols than a stream may hold.
        IntegrityError: the checksum differs.
    """
    if len(data) < _HEAD.size or data[:4] != MAGIC:
        raise FormatError(f"expected a Huffman stream that starts with {MAGIC!r}, got {len(data)} bytes that start with {data[:4]!r}")
    _, kind, dimensions, distinct, payload_bits = _HEAD.unpack_from(data)
    if kind not in _ENTRY:
        raise FormatError(f"kind at offset 4: expected {TEXT} (text) or {CODES} (codes), got {kind}")
    if dimensions > MAX_DIMENSIONS or (kind == TEXT and dimensions != 1):
        raise FormatError(f"dimensions at offset 5: expected {'1' if kind == TEXT else f'0…{MAX_DIMENSIONS}'}, got {dimensions}")
    table_at = _HEAD.size + 8 * dimensions
    payload_at = table_at + _ENTRY[kind].itemsize * distinct
    end = payload_at + -(-payload_bits // 8)
    if len(data) != end + _CHECKSUM.size:
        raise FormatError(f"expected {end + _CHECKSUM.size} bytes by the header, got {len(data)}")
    if zlib.crc32(memoryview(data)[:end]) != _CHECKSUM.unpack_from(data, end)[0]:
        raise IntegrityError(f"checksum at offset {end}: the stream was changed or damaged")
    entries = np.frombuffer(data, _ENTRY[kind], distinct, table_at)
    stream = Stream(
        kind=kind,
        shape=struct.unpack_from(f"<{dimensions}Q", data, _HEAD.size),
        symbols=entries["symbol"].astype(np.uint32),
        lengths=entries["length"].copy(),
        payload=np.frombuffer(data, np.uint8, end - payload_at, payload_at),
        payload_bits=payload_bits,
    )
    _check_table(stream)
    _check_count(stream)
    _check_filling(stream)
    return stream


def _check_table(stream: Stream) -> None:
    symbols, lengths = stream.symbols, stream.lengths
    largest = 0x10FFFF if stream.kind == TEXT else 0xFF
    if np.any(symbols[1:] <= symbols[:-1]) or np.any(symbols[-1:] > largest):
        raise FormatError(f"code table: expected ascending symbols up to {largest}")
    if len(lengths) < 2:
        return  # a lone symbol's length is checked with its count
    if lengths.min() < 1 or lengths.max() > MAX_CODE_BITS:
        raise FormatError(f"code table: expected lengths of 1…{MAX_CODE_BITS} bits, got {lengths.min()}…{lengths.max()}")
    # Kraft: the words of a complete prefix code fill the binary tree exactly; Python integers, since 2^57 · n may wrap 64 bits
    used = sum(int(n) << (MAX_CODE_BITS - bits) for bits, n in enumerate(np.bincount(lengths)))
    if used != 1 << MAX_CODE_BITS:
        raise FormatError(f"code table: expected a complete prefix code (Kraft sum 1), got {used / 2**MAX_CODE_BITS:.6g}")


def _check_count(stream: Stream) -> None:
    count, bits, lengths = stream.count, stream.payload_bits, stream.lengths
    check_shape(stream.shape)
    if (count == 0) != (len(lengths) == 0) or len(lengths) > count:
        raise FormatError(f"{count} symbols cannot take {len(lengths)} different values")
    if len(lengths) == 1 and lengths[0] != lone_length(count):
        raise FormatError(f"code table: expected {lone_length(count)} bits for {count} times one symbol, got {lengths[0]}")
    low, high = (int(lengths.min()) * count, int(lengths.max()) * count) if len(lengths) else (0, 0)
    if not low <= bits <= high:
        raise FormatError(f"payload_bits at offset 10: expected {low}…{high} for {count} symbols, got {bits}")


def _check_filling(stream: Stream) -> None:
    spare = -stream.payload_bits % 8
    if spare and stream.payload[-1] & ((1 << spare) - 1):
        raise FormatError(f"payload: expected its last {spare} bits to be 0")


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises LimitError for a shape beyond a stream's limits; dimensions of 0 do not excuse the others."""
    if len(shape) > MAX_DIMENSIONS or math.prod(max(size, 1) for size in shape) > MAX_SYMBOLS:
        raise LimitError(f"expected at most {MAX_SYMBOLS} symbols in {MAX_DIMENSIONS} dimensions, got shape {list(shape)}")


def lone_length(count: int) -> int:
    """Bits of the code word of a stream's only symbol.

    None are needed; beyond `LONE_SYMBOL_LIMIT` it takes one, so that a few bytes cannot claim the whole memory.
    """
    return 0 if count <= LONE_SYMBOL_LIMIT else 1
