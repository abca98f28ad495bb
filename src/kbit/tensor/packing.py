"""Codes ↔ packed planes (ARCHITECTURE.md, "Layout of a packed matrix").

`pack` and `unpack` run in native code. `reference_pack` and `reference_unpack` say the same in numpy, from the layout's own words:
for each input of a k-block, in which vector of its plane, at which byte and from which bit its piece of the code lies.
"""

import numpy as np
import numpy.typing as npt

from kbit.native.encoding import BLOCK_INPUTS, TILE_ROWS, check_codes, pack, packed_bytes, unpack

__all__ = ["PLANE_WIDTHS", "check_codes", "pack", "packed_bytes", "plane_bytes", "reference_pack", "reference_unpack", "unpack"]

#: bits → widths of the planes, the one with a code's most significant bits first
PLANE_WIDTHS: dict[int, tuple[int, ...]] = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}

Bytes = npt.NDArray[np.uint8]

_VECTOR_BYTES = 64
_SINGLE_BIT_ORDER = np.array([0, 1, 4, 5, 2, 3, 6, 7])


def plane_bytes(rows: int, cols: int, bits: int) -> tuple[int, ...]:
    """Bytes of each plane of a matrix, in order."""
    blocks = -(-rows // TILE_ROWS) * -(-cols // BLOCK_INPUTS)
    return tuple(blocks * _VECTOR_BYTES * width for width in PLANE_WIDTHS[bits])


def reference_pack(codes: Bytes, bits: int) -> Bytes:
    """Planes of codes [rows, cols]."""
    rows, cols = codes.shape
    tiles, kblocks = -(-rows // TILE_ROWS), -(-cols // BLOCK_INPUTS)
    padded = np.zeros((tiles * TILE_ROWS, kblocks * BLOCK_INPUTS), np.uint8)
    padded[:rows, :cols] = codes
    blocks = padded.reshape(tiles, TILE_ROWS, kblocks, BLOCK_INPUTS)
    planes, shift = [], bits
    for width in PLANE_WIDTHS[bits]:
        shift -= width
        plane = np.zeros((tiles, kblocks, width, _VECTOR_BYTES), np.uint8)
        for column in range(BLOCK_INPUTS):
            vector, lane, low_bit = _place(width, column)
            piece = (blocks[:, :, :, column] >> shift) & ((1 << width) - 1)
            plane[:, :, vector, lane::4] |= (piece << low_bit).transpose(0, 2, 1).astype(np.uint8)
        planes.append(plane.reshape(-1))
    return np.concatenate(planes)


def reference_unpack(planes: Bytes, rows: int, cols: int, bits: int) -> Bytes:
    """Codes [rows, cols] of planes."""
    tiles, kblocks = -(-rows // TILE_ROWS), -(-cols // BLOCK_INPUTS)
    blocks = np.zeros((tiles, TILE_ROWS, kblocks, BLOCK_INPUTS), np.uint8)
    begin, shift = 0, bits
    for width, size in zip(PLANE_WIDTHS[bits], plane_bytes(rows, cols, bits), strict=True):
        shift -= width
        plane = planes[begin : begin + size].reshape(tiles, kblocks, width, _VECTOR_BYTES)
        begin += size
        for column in range(BLOCK_INPUTS):
            vector, lane, low_bit = _place(width, column)
            piece = (plane[:, :, vector, lane::4] >> low_bit) & ((1 << width) - 1)
            blocks[:, :, :, column] |= (piece << shift).transpose(0, 2, 1).astype(np.uint8)
    return blocks.reshape(tiles * TILE_ROWS, -1)[:rows, :cols].copy()


def _place(width: int, column: int) -> tuple[int, int, int]:
    """(vector, byte within a row's four, lowest bit) of an input of a k-block in a plane of `width` bits."""
    if width == 1:
        return 0, column % 4, int(_SINGLE_BIT_ORDER[column // 4])
    inputs = BLOCK_INPUTS // width
    return column // inputs, column % 4, column % inputs // 4 * width
