"""Pruned matrices as they are stored: a mask of the weights that have codes, and those codes one after another.

    weight_mask   uint8 [tiles · kblocks · 64]   for each tile, k-block and step of four inputs 64 bits, little-endian: bit 4·row + j is
                                                 input 4·step + j of the k-block; 1 where the weight has a code
    weight        uint8                          the codes in the order of those bits, each in as many bits as the scheme has, low bits
                                                 first; those of a tile of 16 rows begin at a byte

Every row has equally many codes, so sizes follow from the shape. Kernels fill codes up to eight bits, tile by tile: `filled_levels` are the
grid's levels with 0 among them, which is what weights without a code have.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import FormatError
from kbit.core.scheme import Scheme
from kbit.tensor.blocks import BLOCK_INPUTS, TILE_ROWS

__all__ = [
    "fill_codes",
    "filled_levels",
    "mask_bytes",
    "pack_mask",
    "pack_stream",
    "stream_bytes",
    "tile_bytes",
    "unpack_mask",
    "unpack_stream",
    "validate_pruned",
]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

NO_PLACE = 256


def mask_bytes(rows: int, cols: int) -> int:
    """Bytes of a matrix's mask."""
    return -(-rows // TILE_ROWS) * -(-cols // BLOCK_INPUTS) * 64


def tile_bytes(scheme: Scheme, cols: int, rows: int = TILE_ROWS) -> int:
    """Bytes of the codes of a tile of so many rows."""
    return -(-rows * scheme.spec.kept(cols) * scheme.bits // 8)


def stream_bytes(scheme: Scheme, rows: int, cols: int) -> int:
    """Bytes of a matrix's codes."""
    whole, rest = divmod(rows, TILE_ROWS)
    return whole * tile_bytes(scheme, cols) + (tile_bytes(scheme, cols, rest) if rest else 0)


def pack_mask(kept: Bools) -> Bytes:
    """Mask of `kept` [rows, cols]."""
    return np.packbits(_in_steps(kept).reshape(-1), bitorder="little")


def unpack_mask(mask: Bytes, rows: int, cols: int) -> Bools:
    """`kept` [rows, cols] of a mask; padding is cut off."""
    return _from_steps(np.unpackbits(mask, bitorder="little").astype(bool), rows, cols)


def pack_stream(codes: Bytes, kept: Bools, bits: int) -> Bytes:
    """Codes [rows, cols] of the weights that are kept, as stored."""
    pieces = []
    for begin in range(0, len(codes), TILE_ROWS):
        steps, used = _in_steps(codes[begin : begin + TILE_ROWS]).reshape(-1), _in_steps(kept[begin : begin + TILE_ROWS]).reshape(-1)
        digits = (steps[used][:, None] >> np.arange(bits, dtype=np.uint8)) & 1
        pieces.append(np.packbits(digits.reshape(-1).astype(np.uint8), bitorder="little"))
    return np.concatenate(pieces)


def unpack_stream(stream: Bytes, kept: Bools, scheme: Scheme) -> Bytes:
    """Codes [rows, cols]; 0 for weights without one.

    Raises:
        FormatError: another number of codes than the stream holds, or bits behind a tile's last code.
    """
    rows, cols = kept.shape
    codes, begin = np.zeros(kept.shape, np.uint8), 0
    for row in range(0, rows, TILE_ROWS):
        used = _in_steps(kept[row : row + TILE_ROWS]).reshape(-1)
        height = min(TILE_ROWS, rows - row)
        size = tile_bytes(scheme, cols, height)
        digits = np.unpackbits(stream[begin : begin + size], bitorder="little")
        count = int(used.sum()) * scheme.bits
        if not 0 <= digits.size - count < 8 or digits[count:].any():
            raise FormatError(f"expected {size} bytes of codes in the tile at row {row} and 0 behind them, got a mask with {count} bits")
        steps = np.zeros(used.size, np.uint8)
        steps[used] = np.packbits(digits[:count].reshape(-1, scheme.bits), axis=1, bitorder="little")[:, 0]
        codes[row : row + height] = _from_steps(steps, height, cols)
        begin += size
    return codes


def validate_pruned(scheme: Scheme, mask: Bytes, stream: Bytes, rows: int, cols: int, n_levels: int) -> None:
    """Refuse a mask or codes of one matrix that no encoder writes.

    Raises:
        FormatError: bits of the mask beyond the matrix, another number of weights in a row or in M neighbours than the scheme says,
            codes that do not fill the stream, or a code beyond the levels.
    """
    kept, spec = unpack_mask(mask, rows, cols), scheme.spec
    if not np.array_equal(pack_mask(kept), mask):
        raise FormatError("expected a mask of 0 beyond the matrix, got others")
    counts, expected = kept.sum(axis=1), spec.kept(cols)
    if (counts != expected).any():
        row = int(np.argmax(counts != expected))
        raise FormatError(f"expected {expected} weights with codes in each row for {scheme.text}, got {counts[row]} in row {row}")
    if spec.keep is not None:
        n, m = spec.keep
        if (kept[:, : cols // m * m].reshape(rows, -1, m).sum(axis=2) != n).any():
            raise FormatError(f"expected {n} weights with codes in each {m} of a row, got others")
    largest = unpack_stream(stream, kept, scheme).max()
    if largest >= n_levels:
        raise FormatError(f"expected codes below {n_levels}, got {largest}")


def filled_levels(levels: Float32) -> tuple[Float32, int, int]:
    """(levels with 0 among them, place where it was put in or 256, its code)."""
    zero = int(np.searchsorted(levels, np.float32(0)))
    if zero < levels.size and levels[zero] == 0:
        return levels, NO_PLACE, zero
    return np.insert(levels, zero, np.float32(0)), zero, zero


def fill_codes(codes: Bytes, kept: Bools, inserted: int, zero: int) -> Bytes:
    """Codes into `filled_levels`, of all weights."""
    shifted = codes + (codes.astype(np.int16) >= inserted)
    return np.where(kept, shifted, zero).astype(np.uint8)


def _in_steps(values: Array) -> Array:
    """[rows, cols] → [tiles, steps, 16, 4], padded with 0."""
    rows, cols = values.shape
    tiles, steps = -(-rows // TILE_ROWS), -(-cols // BLOCK_INPUTS) * (BLOCK_INPUTS // 4)
    padded = np.zeros((tiles * TILE_ROWS, steps * 4), values.dtype)
    padded[:rows, :cols] = values
    return padded.reshape(tiles, TILE_ROWS, steps, 4).transpose(0, 2, 1, 3)


def _from_steps(flat: Array, rows: int, cols: int) -> Array:
    tiles, steps = -(-rows // TILE_ROWS), -(-cols // BLOCK_INPUTS) * (BLOCK_INPUTS // 4)
    whole = flat.reshape(tiles, steps, TILE_ROWS, 4).transpose(0, 2, 1, 3).reshape(tiles * TILE_ROWS, steps * 4)
    return np.ascontiguousarray(whole[:rows, :cols])
