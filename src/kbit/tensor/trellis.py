"""The stream of a trellis in numpy: steps ↔ lines of words, and the level of each weight (csrc/trellis.h has the same for kernels).

A row is one stream of steps of `bits` bits. A k-block of a tile is `bits` lines of 64 bytes, one 32-bit word for each of 16 rows; a row's
words one after another are its stream, the highest bit of a word first. A weight's level is

    index = bits 8 … 13 of window · multiplier mod 2^16,   window = the 16 bits of the stream that end with the weight's own step

with zeros before the row's beginning. The multiplier is 2^(14 − L) times an odd number, so that only the last L bits count.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.native import _kbit
from kbit.native.encoding import BLOCK_INPUTS, TILE_ROWS, packed_bytes

__all__ = ["MULTIPLIERS", "pack_steps", "padding_is_zero", "state_bits", "unpack_indices", "unpack_steps"]

Bytes = npt.NDArray[np.uint8]

#: bits of a step → the multiplier that turns a window into the index of a level; part of the file format
MULTIPLIERS: dict[int, int] = {bits: _kbit.trellis_multiplier(bits) for bits in range(1, 5)}

_WORD = np.dtype("<u4")


def state_bits(bits: int) -> int:
    """Bits L of the stream that decide a level."""
    multiplier = MULTIPLIERS[bits]
    return 14 - ((multiplier & -multiplier).bit_length() - 1)


def pack_steps(steps: Bytes, bits: int) -> Bytes:
    """Lines of steps [rows, cols] (each below 2^bits), uint8 of `packed_bytes`; padding is 0."""
    rows, cols = steps.shape
    tiles, kblocks = -(-rows // TILE_ROWS), -(-cols // BLOCK_INPUTS)
    padded = np.zeros((tiles * TILE_ROWS, kblocks, BLOCK_INPUTS), np.uint8)
    padded.reshape(tiles * TILE_ROWS, -1)[:rows, :cols] = steps
    words = np.zeros((tiles * TILE_ROWS, kblocks, bits), np.uint32)
    for column in range(BLOCK_INPUTS):
        step = padded[:, :, column].astype(np.uint32)
        line, after = _place(column, bits)
        words[:, :, line] |= step << after
        if after + bits > 32:  # the upper part of the step ends the word before
            words[:, :, line - 1] |= step >> (32 - after)
    tiled = words.reshape(tiles, TILE_ROWS, kblocks * bits).transpose(0, 2, 1)
    return np.ascontiguousarray(tiled, _WORD).reshape(-1).view(np.uint8)


def unpack_steps(lines: Bytes, rows: int, cols: int, bits: int, *, row_begin: int = 0, row_end: int | None = None) -> Bytes:
    """Steps of rows `row_begin` … `row_end` (default: all), uint8 [row_end − row_begin, cols]."""
    return (_windows(lines, rows, cols, bits, row_begin, row_end) & ((1 << bits) - 1)).astype(np.uint8)


def unpack_indices(lines: Bytes, rows: int, cols: int, bits: int, *, row_begin: int = 0, row_end: int | None = None) -> Bytes:
    """Indices of the levels of rows `row_begin` … `row_end` (default: all), uint8 [row_end − row_begin, cols]."""
    windows = _windows(lines, rows, cols, bits, row_begin, row_end)
    return ((windows * np.uint16(MULTIPLIERS[bits]) >> 8) & 63).astype(np.uint8)


def padding_is_zero(lines: Bytes, rows: int, cols: int, bits: int) -> bool:
    """True if the steps of rows and columns that only pad are 0; every other bit pattern is a path."""
    words = _words(lines, rows, cols, bits)
    if words[-1, :, rows - (len(words) - 1) * TILE_ROWS :].any():
        return False
    used = (cols - 1) % BLOCK_INPUTS + 1
    last = words[:, -bits:, :]
    line, after = _place(used - 1, bits)
    partial = last[:, line, :] & np.uint32((1 << after) - 1)
    return not (partial.any() or last[:, line + 1 :, :].any())


def _place(column: int, bits: int) -> tuple[int, int]:
    """(line of the k-block in which the step of an input ends, bits of that word after it)."""
    end = bits * (column + 1)
    line = (end - 1) // 32
    return line, 32 * (line + 1) - end


def _words(lines: Bytes, rows: int, cols: int, bits: int) -> npt.NDArray[Any]:
    tiles, kblocks = -(-rows // TILE_ROWS), -(-cols // BLOCK_INPUTS)
    assert lines.size == packed_bytes(rows, cols, bits)
    return np.ascontiguousarray(lines).reshape(-1).view(_WORD).reshape(tiles, kblocks * bits, TILE_ROWS)


def _windows(lines: Bytes, rows: int, cols: int, bits: int, row_begin: int, row_end: int | None) -> npt.NDArray[np.uint16]:
    row_end = rows if row_end is None else row_end
    first = row_begin // TILE_ROWS
    words = _words(lines, rows, cols, bits)[first : -(-row_end // TILE_ROWS)].astype(np.uint64)
    tiles, count, _ = words.shape
    stream = words.copy()
    stream[:, 1:] |= words[:, :-1] << np.uint64(32)
    stream = stream.reshape(tiles, count // bits, bits, TILE_ROWS)
    out = np.empty((tiles, TILE_ROWS, count // bits, BLOCK_INPUTS), np.uint16)
    for column in range(BLOCK_INPUTS):
        line, after = _place(column, bits)
        out[:, :, :, column] = (stream[:, :, line] >> np.uint64(after)).astype(np.uint16).transpose(0, 2, 1)
    return out.reshape(tiles * TILE_ROWS, -1)[row_begin - first * TILE_ROWS : row_end - first * TILE_ROWS, :cols]
