"""Huffman coding of text and of k-bit codes: the reference that explains itself.

**Why.** The codes of a quantized tensor are not equally frequent: with absmax scales the middle levels of a Gaussian block are common
and the outer ones rare. Shannon's bound says how few bits suffice: a source that emits symbol s with probability p_s carries

    H = − Σ_s p_s · log2 p_s   bits a symbol,

and no code from which the symbols can be read back does with less on average. A prefix code gives symbol s a word of l_s bits, none
the beginning of another; it exists exactly when Kraft's sum Σ 2^−l_s ≤ 1. Huffman (1952) finds the lengths with the smallest total

    L = Σ_s p_s · l_s,      H ≤ L < H + 1,

by joining the two rarest subtrees until one is left. `build_tree` does that; every bit above H is the price of whole bits.

**Canonical.** Any code with the same lengths is as good, so only the lengths are stored and the words follow from them
(`kbit.entropy.canonical`). Ties are broken by age (older subtree first), which gives the flattest of the optimal trees, and the
same bytes everywhere.

**Longest word.** A tree of depth d needs at least Fibonacci(d + 2) symbols. A stream holds at most 2^40 < Fibonacci(60), so no word
is longer than 57 bits: one fits into a 64-bit register at any of the 8 bit offsets in a byte, and no length limit costs anything.

**Special cases.** Nothing to code: no table, no payload. One symbol only: its word is empty and the payload too (H = 0); beyond 2^24
repetitions it takes one bit each, so that no stream of a few bytes claims the whole memory. Any other stream spends at least one bit
a symbol, so what it unpacks to is bounded by its own size.

**Stream** (little-endian; ``kbit.entropy.stream`` reads it with all its distrust):

    offset  bytes       field
    0       4           magic "KBH1"
    4       1           kind: 0 text, 1 codes
    5       1           dimensions d (text: 1; codes: 0…32)
    6       4           n, distinct symbols
    10      8           payload bits
    18      8·d         shape (text: number of characters)
    …       n·e         symbol and length of its word, symbols ascending; text: u32 code point + u8 (e = 5), codes: u8 + u8 (e = 2)
    …       ⌈bits/8⌉    payload: words one after another, first bit in the top bit of a byte, the last byte filled up with 0
    …       4           CRC-32 of all before

So a block costs its optimal bits, at most 7 bits of filling, and its header. The shipped format uses a faster coder; this one is kept
to be read, and to check others against.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kbit.core.errors import DTypeError, FormatError, NumericsError, ShapeError
from kbit.entropy.canonical import code_words, pack, unpack
from kbit.entropy.matrix import CompressedLayer, CompressedMatrix, CompressedModel, exact_product
from kbit.entropy.stream import CODES, TEXT, Stream, check_shape, lone_length, parse, serialise

__all__ = [
    "CompressedLayer",
    "CompressedMatrix",
    "CompressedModel",
    "Node",
    "build_tree",
    "calculate_frequency",
    "compress",
    "compress_matrix",
    "decompress",
    "generate_code",
    "infer",
]

Symbol = TypeVar("Symbol", str, int)
Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Node(Generic[Symbol]):
    """A subtree: a leaf with its symbol, or two subtrees, of which the left is read as bit 0."""

    frequency: int
    symbol: Symbol | None = None
    left: "Node[Symbol] | None" = field(default=None, repr=False)
    right: "Node[Symbol] | None" = field(default=None, repr=False)


@overload
def calculate_frequency(data: str) -> dict[str, int]: ...
@overload
def calculate_frequency(data: Codes) -> dict[int, int]: ...
def calculate_frequency(data: str | Codes) -> dict[str, int] | dict[int, int]:
    """How often each symbol occurs, symbols ascending: characters of a text, or values of a uint8 array of any shape.

    Raises:
        DTypeError: neither text nor a uint8 array.
    """
    counts = np.bincount(_flat(data), minlength=1)
    found = np.flatnonzero(counts)
    if isinstance(data, str):
        return {chr(symbol): int(counts[symbol]) for symbol in found}
    return {int(symbol): int(counts[symbol]) for symbol in found}


def build_tree(frequency: Mapping[Symbol, int]) -> Node[Symbol] | None:
    """The Huffman tree of these frequencies; None where there are none.

    Raises:
        NumericsError: a frequency is not a positive integer.
    """
    for symbol, times in frequency.items():
        if not isinstance(times, int) or isinstance(times, bool) or times < 1:
            raise NumericsError(f"frequency of {symbol!r}: expected a positive integer, got {times!r}")
    # the running number breaks ties by age, and keeps the heap from comparing nodes
    heap = [(frequency[symbol], age, Node(frequency[symbol], symbol)) for age, symbol in enumerate(sorted(frequency))]
    heapq.heapify(heap)
    for age in range(len(heap), 2 * len(heap) - 1):
        least, _, left = heapq.heappop(heap)
        second, _, right = heapq.heappop(heap)
        heapq.heappush(heap, (least + second, age, Node(least + second, None, left, right)))
    return heap[0][2] if heap else None


def generate_code(tree: Node[Symbol] | None) -> dict[Symbol, str]:
    """Canonical code word of each symbol, as a text of 0 and 1, symbols ascending; a lone symbol's word is empty."""
    depth: dict[Symbol, int] = {}
    ahead = [] if tree is None else [(tree, 0)]
    while ahead:  # no recursion: a tree may be as deep as it has symbols
        node, level = ahead.pop()
        if node.left is not None and node.right is not None:
            ahead += [(node.left, level + 1), (node.right, level + 1)]
        elif node.symbol is not None:
            depth[node.symbol] = level
    symbols = sorted(depth)
    words = code_words([depth[symbol] for symbol in symbols])
    return {symbol: f"{word:0{depth[symbol]}b}" if depth[symbol] else "" for symbol, word in zip(symbols, words, strict=True)}


def compress(data: str | Codes) -> bytes:
    """The Huffman stream of a text or of a uint8 array of any shape; `decompress` gives it back.

    Raises:
        DTypeError: neither text nor a uint8 array.
        LimitError: more than 2^40 symbols or 32 dimensions.
    """
    flat = _flat(data)
    kind, shape = (TEXT, (len(flat),)) if isinstance(data, str) else (CODES, data.shape)
    check_shape(shape)
    code = generate_code(build_tree(calculate_frequency(data)))
    symbols = np.array([ord(symbol) if isinstance(symbol, str) else symbol for symbol in code], np.uint32)
    lengths = np.array([len(word) for word in code.values()], np.uint8)
    if len(symbols) == 1:
        lengths[0] = lone_length(len(flat))
    rank = np.zeros(int(symbols.max(initial=0)) + 1, np.uint32)
    rank[symbols] = np.arange(len(symbols), dtype=np.uint32)
    ranks = rank[flat]
    bits = int(lengths.astype(np.int64) @ np.bincount(ranks, minlength=len(lengths)))
    return serialise(Stream(kind, shape, symbols, lengths, pack(ranks, lengths), bits))


def decompress(data: bytes) -> str | Codes:
    """The text or the uint8 array that `compress` was given.

    Never reads past `data`, takes time and memory in proportion to it (plus 64 MiB at most), and refuses whatever is not a whole stream.

    Raises:
        FormatError: not a stream, cut short, or inconsistent (LimitError: it declares more than a stream may hold).
        IntegrityError: changed or damaged.
    """
    stream = parse(bytes(data))
    if len(stream.symbols) <= 1:
        if stream.payload.any():
            raise FormatError("payload: expected zeros, the only word of a lone symbol")
        flat = np.full(stream.count, stream.symbols[0] if stream.count else 0, np.uint8 if stream.kind == CODES else np.dtype("<u4"))
    else:
        table = stream.symbols.astype(np.uint8 if stream.kind == CODES else "<u4")
        flat = table[unpack(stream.payload, stream.payload_bits, stream.lengths, stream.count)]
    if stream.kind == TEXT:
        return flat.tobytes().decode("utf-32-le", "surrogatepass")
    return flat.reshape(stream.shape)


def compress_matrix(
    codes: Codes,
    scale: ArrayLike,
    codebook: ArrayLike,
    *,
    group_size: int,
    zero_point: ArrayLike | None = None,
    block_rows: int = 256,
) -> CompressedMatrix:
    """A matrix of codes (`[rows, cols]`) in streams of `block_rows` rows, each with a code table of its own.

    Args:
        codes: uint8 `[rows, cols]`, indices into the codebook.
        scale: `[rows, groups]`, taken as float32.
        codebook: `[levels]`, taken as float32.
        group_size: inputs that share a scale, or -1 for the whole row.
        zero_point: `[rows, groups]`, taken as float32, or None.
        block_rows: rows decoded at a time.

    Raises:
        ShapeError, NumericsError, DTypeError: what does not fit, with expected and got.
    """
    if codes.ndim != 2 or block_rows < 1:
        raise ShapeError(f"expected a matrix of codes and block_rows of at least 1, got shape {codes.shape} and {block_rows}")
    matrix = CompressedMatrix(
        blocks=tuple(compress(codes[row : row + block_rows]) for row in range(0, len(codes), block_rows)),
        shape=codes.shape,
        codebook=np.asarray(codebook, np.float32),
        scale=np.asarray(scale, np.float32),
        group_size=max(codes.shape[1], 1) if group_size == -1 else group_size,
        zero_point=None if zero_point is None else np.asarray(zero_point, np.float32),
    )
    if codes.size and codes.max() >= len(matrix.codebook):
        raise NumericsError(f"expected codes below {len(matrix.codebook)}, got {codes.max()}")
    return matrix


def infer(model: CompressedMatrix | CompressedModel, x: ArrayLike) -> NDArray[np.float32]:
    """Runs a compressed matrix or model on `x` (`[…, inputs]`, taken as float32); the result is float32 `[…, outputs]`.

    One block of rows is decoded, used and dropped at a time. The result has the same bytes as the same sums over the plain codes
    (`kbit.entropy.matrix.exact_product`).

    Raises:
        ShapeError: `x` does not have the model's number of inputs.
        FormatError, IntegrityError: a block is damaged, or is not the block that belongs there.
    """
    y = np.asarray(x, np.float32)
    layers: Sequence[CompressedLayer] = (CompressedLayer(model),) if isinstance(model, CompressedMatrix) else model.layers
    for layer in layers:
        y = _apply(layer.matrix, y)
        if layer.bias is not None:
            y = y + layer.bias
        if layer.activation == "relu":
            y = np.maximum(y, np.float32(0))
    return y


def _apply(matrix: CompressedMatrix, x: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, cols = matrix.shape
    if x.ndim < 1 or x.shape[-1] != cols:
        raise ShapeError(f"expected an input of shape […, {cols}], got {list(x.shape)}")
    flat = x.reshape(math.prod(x.shape[:-1]), cols)
    y = np.empty((len(flat), rows), np.float32)
    row = 0
    for number, block in enumerate(matrix.blocks):
        codes = decompress(block)
        if isinstance(codes, str) or codes.ndim != 2 or codes.shape[1] != cols or row + len(codes) > rows:
            raise FormatError(f"block {number}: expected codes of at most {rows - row} rows of {cols}, got {np.shape(codes)}")
        if codes.size and codes.max() >= len(matrix.codebook):
            raise FormatError(f"block {number}: expected codes below {len(matrix.codebook)}, got {codes.max()}")
        here = slice(row, row + len(codes))
        zero_point = None if matrix.zero_point is None else matrix.zero_point[here]
        y[:, here] = exact_product(flat, matrix.codebook[codes], matrix.scale[here], matrix.group_size, zero_point)
        row += len(codes)
    if row != rows:
        raise FormatError(f"expected blocks of {rows} rows in all, got {row}")
    return y.reshape(*x.shape[:-1], rows)


def _flat(data: Any) -> NDArray[Any]:
    """Symbols as numbers: code points, or codes in C order."""
    if isinstance(data, str):
        return np.frombuffer(data.encode("utf-32-le", "surrogatepass"), "<u4")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        raise DTypeError(f"expected a text or a uint8 array, got {getattr(data, 'dtype', type(data).__name__)}")
    return data.reshape(-1)
