"""How deep the brackets of a JSON text are nested, found on its bytes, before a parser that recurses sees them.

Time is linear and memory that of a piece, whatever the text holds: a string without an end, a million escapes. Backslashes and quotes are
told apart as a parser does up to the first backslash outside of a string, where every parser stops.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Nesting", "nesting"]

_PIECE_BYTES = 1 << 20
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1
_QUOTE = 0x22


class Nesting(NamedTuple):
    """What `nesting` found.

    Attributes:
        deepest: most brackets open at once.
        left: brackets open at the end.
        outside: offset of the first bracket that closes what was never opened, or opens more than allowed; −1 if there is none.
    """

    deepest: int
    left: int
    outside: int


def nesting(data: bytes, most: int) -> Nesting:
    """Brackets of a JSON text outside of its strings, of which `most` may be open at once."""
    deepest, left, outside = 0, 0, -1
    in_string = escaped = False
    for at in range(0, len(data), _PIECE_BYTES):
        codes, escaped = _without_escapes(data[at : at + _PIECE_BYTES], escaped)
        strings = np.logical_xor.accumulate(codes == _QUOTE) ^ in_string
        depth = np.cumsum(np.where(strings, np.int8(0), _STEP[codes]), dtype=np.int32) + left
        in_string, left, deepest = bool(strings[-1]), int(depth[-1]), max(deepest, int(depth.max()))
        if outside < 0 and (depth.min() < 0 or depth.max() > most):
            outside = at + int(np.argmax((depth < 0) | (depth > most)))
    return Nesting(deepest, left, outside)


def _without_escapes(piece: bytes, escaped: bool) -> tuple[npt.NDArray[np.uint8], bool]:
    r"""The bytes of a piece with `\\` and `\"` blanked, and whether its last backslash escapes the first byte of the next piece."""
    if escaped:
        piece = b"x" + piece[1:]
    piece = piece.replace(b"\\\\", b"xx")
    escaped = piece.endswith(b"\\")
    return np.frombuffer(piece.replace(b'\\"', b"xx"), np.uint8), escaped
