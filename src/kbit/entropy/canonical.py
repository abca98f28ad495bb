"""Canonical prefix codes as numbers: code words from their lengths, packing into bits, and walking back.

Only the lengths of the words are stored. The words follow from them: sort the symbols by (length, symbol), give the first the word
0…0, and each next one the word before plus 1, shifted left when the length grows. So the words of one length are consecutive
numbers, and all of them, written as fractions 0.b1b2b3…, ascend with the length.

Decoding uses just that. Take the next 57 bits as a number w. The word that w begins with has the length l for which
``first[l] ≤ w < first[l + 1]`` (left-aligned), and is number ``offset[l] + (w − first[l]) >> (57 − l)`` in the sorted order.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import FormatError
from kbit.entropy.stream import MAX_CODE_BITS

__all__ = ["code_words", "pack", "unpack"]

_PACK_SYMBOLS = 1 << 15
_WALK_BITS = 1 << 18


def code_words(lengths: Sequence[int]) -> list[int]:
    """Canonical code words, right-aligned, of the symbols with these lengths in bits (symbols ascending)."""
    words = [0] * len(lengths)
    word, before = 0, 0
    for symbol in sorted(range(len(lengths)), key=lambda symbol: (lengths[symbol], symbol)):
        word <<= lengths[symbol] - before
        words[symbol] = word
        word, before = word + 1, lengths[symbol]
    return words


def pack(ranks: NDArray[np.unsignedinteger[Any]], lengths: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The code words of `ranks` (`[count]`, indices into `lengths`) one after another as bytes, the last one filled up with 0."""
    width = int(lengths.max(initial=0))
    words = np.array(code_words(lengths.tolist()), np.uint64)
    # row s: the bits of word s, then padding that `valid` leaves out
    place = np.arange(width, dtype=np.int64)
    valid = place < lengths[:, None]
    shift = np.where(valid, lengths[:, None].astype(np.int64) - 1 - place, 0).astype(np.uint64)
    bits = ((words[:, None] >> shift) & np.uint64(1)).astype(np.uint8)
    pieces, rest = [], np.empty(0, np.uint8)
    for start in range(0, len(ranks), _PACK_SYMBOLS):
        piece = ranks[start : start + _PACK_SYMBOLS]
        rest = np.concatenate([rest, bits[piece][valid[piece]]])
        whole = len(rest) // 8 * 8
        pieces.append(np.packbits(rest[:whole]))
        rest = rest[whole:]
    return np.concatenate([*pieces, np.packbits(rest)])


def unpack(payload: NDArray[np.uint8], payload_bits: int, lengths: NDArray[np.uint8], count: int) -> NDArray[np.unsignedinteger[Any]]:
    """The `count` ranks that `pack` wrote; `lengths` is a complete code of at least two words.

    A window of the payload is decoded at every bit position at once; then the word boundaries are walked, each position telling
    the next. Nothing past the payload is read: beyond it the window holds zeros, and a word that needs them is an error.

    Raises:
        FormatError: the payload ends within a word, or holds more or fewer than `count` words.
    """
    dtype: type[np.unsignedinteger[Any]] = np.uint8 if len(lengths) <= 256 else np.uint32
    ranks = np.empty(count, dtype)
    done, position = 0, 0
    for start, rank_at, length_at in _windows(payload, payload_bits, lengths):
        steps, here = length_at.tolist(), position - start
        places: list[int] = []
        while here < len(steps) and done + len(places) < count:
            places.append(here)
            here += steps[here]
        ranks[done : done + len(places)] = rank_at[places]
        done, position = done + len(places), start + here
    if done != count or position != payload_bits:
        raise FormatError(f"payload: expected {count} code words in {payload_bits} bits, got {done} in {position}")
    return ranks


def _windows(
    payload: NDArray[np.uint8], payload_bits: int, lengths: NDArray[np.uint8]
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """First bit of a window, and for each of its bits the rank and the length of the word that would start there."""
    order = np.argsort(lengths, kind="stable")
    words = np.array(code_words(lengths.tolist()), np.uint64)[order]
    sizes, offset = np.unique(lengths[order], return_index=True)
    align = (MAX_CODE_BITS - sizes.astype(np.int64)).astype(np.uint64)
    first = words[offset] << align
    for start in range(0, payload_bits, _WALK_BITS):
        stop = min(start + _WALK_BITS, payload_bits)
        following = _following_bits(payload, start, stop)
        which = np.searchsorted(first, following, side="right") - 1
        rank = offset[which] + ((following - first[which]) >> align[which]).astype(np.int64)
        yield start, order[rank], sizes[which].astype(np.int64)


def _following_bits(payload: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.uint64]:
    """For each bit position in start…stop − 1 (start a multiple of 8): the 57 bits from there on, zeros past the end."""
    first, last = start // 8, -(-stop // 8)
    padded = np.zeros(last - first + 8, np.uint8)
    there = payload[first : last + 8]
    padded[: len(there)] = there
    eight = np.zeros(last - first, np.uint64)
    for byte in range(8):
        eight = (eight << np.uint64(8)) | padded[byte : byte + last - first]
    # 64 bits from each byte on; shifted by 0…7, 57 are left
    shifted = (eight[:, None] << np.arange(8, dtype=np.uint64)) >> np.uint64(64 - MAX_CODE_BITS)
    return shifted.reshape(-1)[: stop - start]
