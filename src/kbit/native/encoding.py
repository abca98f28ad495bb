"""Packing and encoding in native code: shapes, dtypes and sizes are checked here, before pointers are taken.

Matrices are single (2-D) here; stacks and streams are put together above, in `kbit.encoders`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import DTypeError, NumericsError, ShapeError
from kbit.native import _kbit

__all__ = ["BITS", "SCALE_KINDS", "EncodeOptions", "EncodedMatrix", "check_codes", "encode", "pack", "packed_bytes", "scan", "unpack"]

BITS = range(1, 9)
TILE_ROWS = 16
BLOCK_INPUTS = 32

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_WEIGHT_TYPES = {"float32": 0, "float16": 1, "uint16": 2}
SCALE_KINDS = {"fp16": 0, "e4m3": 1, "dq8": 2}
#: scale_dtype → dtype in memory and in files
SCALE_DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype(np.uint16), "e4m3": np.dtype(np.uint8), "dq8": np.dtype(np.int8)}
_SEARCHES = {"absmax": 0, "mse": 1}
_NO_FLOATS: Floats = np.empty(0, np.float32)
_NO_BYTES: Bytes = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """What the native encoder needs to know of a scheme; `group_size` is resolved (the number of columns for one scale a row)."""

    levels: Floats
    bits: int
    group_size: int
    anchor: float
    mirrored: bool
    zero_points: bool
    scale_search: str
    scale_dtype: str


@dataclass(frozen=True, slots=True)
class EncodedMatrix:
    """A matrix in its stored form: planes, scales [tiles, groups, 16], super_scale [tiles] (dq8) and zero_point (asymmetric)."""

    planes: Bytes
    scale: Array
    super_scale: Floats | None
    zero_point: Bytes | None


def packed_bytes(rows: int, cols: int, bits: int) -> int:
    """Bytes of the packed planes of a matrix."""
    return -(-rows // TILE_ROWS) * -(-cols // BLOCK_INPUTS) * 64 * bits


def pack(codes: Bytes, bits: int, *, threads: int = 0) -> Bytes:
    """Planes of `codes` [rows, cols].

    Raises:
        DTypeError, ShapeError: codes that are not a uint8 matrix.
        NumericsError: a code that does not fit into `bits`.
    """
    if codes.dtype != np.uint8:
        raise DTypeError(f"expected codes of uint8, got {codes.dtype}")
    rows, cols = _matrix_shape(codes.shape, bits)
    if int(codes.max()) >> bits:
        raise NumericsError(f"expected codes below 2^{bits}, got {int(codes.max())}")
    planes = np.empty(packed_bytes(rows, cols, bits), np.uint8)
    _kbit.pack(np.ascontiguousarray(codes).reshape(-1), rows, cols, bits, planes, _checked_threads(threads))
    return planes


def unpack(planes: Bytes, rows: int, cols: int, bits: int, *, row_begin: int = 0, row_end: int | None = None, threads: int = 0) -> Bytes:
    """Codes of rows `row_begin` … `row_end` (default: all), uint8 [row_end − row_begin, cols]."""
    flat = _checked_planes(planes, rows, cols, bits)
    row_end = rows if row_end is None else row_end
    if not 0 <= row_begin <= row_end <= rows:
        raise ShapeError(f"expected rows within 0…{rows}, got {row_begin}…{row_end}")
    codes = np.empty((row_end - row_begin, cols), np.uint8)
    if codes.size:
        _kbit.unpack(flat, rows, cols, bits, row_begin, row_end, codes.reshape(-1), _checked_threads(threads))
    return codes


def check_codes(planes: Bytes, rows: int, cols: int, bits: int, n_levels: int, *, threads: int = 0) -> bool:
    """True if every code is below `n_levels` and every padding code is 0."""
    flat = _checked_planes(planes, rows, cols, bits)
    if n_levels < 1:
        raise ShapeError(f"expected at least one level, got {n_levels}")
    valid: bool = _kbit.check_codes(flat, rows, cols, bits, n_levels, _checked_threads(threads))
    return valid


def scan(weights: Array, group_size: int, *, zero_points: bool = False, threads: int = 0) -> tuple[int, float]:
    """(flat index of the first NaN or Inf or −1, largest spread of a group of `group_size` columns).

    `weights` is [rows, cols] of float32, float16, or uint16 for bfloat16 bits. The spread of a group is its largest magnitude
    or, with zero points, the width of the range that holds its weights and 0.
    """
    rows, cols = _matrix_shape(weights.shape, 1)
    weights, weight_type = _checked_weights(weights)
    _check_group_size(group_size, cols)
    result: tuple[int, float] = _kbit.scan(_bytes_of(weights), weight_type, rows, cols, group_size, zero_points, _checked_threads(threads))
    return result


def encode(
    weights: Array, options: EncodeOptions, *, importance: Floats | None = None, matrix_super_scale: float = 0.0, threads: int = 0
) -> tuple[int, EncodedMatrix]:
    """(flat index of the first NaN or Inf or −1, the encoded matrix, which is meaningless unless the index is −1).

    Args:
        weights: [rows, cols] of float32, float16, or uint16 for bfloat16 bits.
        options: how to encode.
        importance: weights of the squared error, float32 [cols] or [rows, cols], finite and not negative.
        matrix_super_scale: the given super-scale of e4m3 scales.
        threads: threads to use; 0 for the default. The result does not depend on it.
    """
    rows, cols = _matrix_shape(weights.shape, options.bits)
    weights, weight_type = _checked_weights(weights)
    _check_options(options)
    _check_group_size(options.group_size, cols)
    flat_importance, stride = _checked_importance(importance, rows, cols)
    out = _empty_matrix(rows, cols, options)
    first_bad: int = _kbit.encode(
        _bytes_of(weights),
        weight_type,
        rows,
        cols,
        flat_importance,
        stride,
        options.levels,
        options.bits,
        options.anchor,
        options.mirrored,
        options.group_size,
        _SEARCHES[options.scale_search],
        SCALE_KINDS[options.scale_dtype],
        matrix_super_scale,
        out.planes,
        _bytes_of(out.scale),
        _NO_FLOATS if out.super_scale is None else out.super_scale,
        _NO_BYTES if out.zero_point is None else out.zero_point.reshape(-1),
        _checked_threads(threads),
    )
    return first_bad, out


def _empty_matrix(rows: int, cols: int, options: EncodeOptions) -> EncodedMatrix:
    tiles = -(-rows // TILE_ROWS)
    shape = (tiles, -(-cols // options.group_size), TILE_ROWS)
    return EncodedMatrix(
        planes=np.empty(packed_bytes(rows, cols, options.bits), np.uint8),
        scale=np.empty(shape, SCALE_DTYPES[options.scale_dtype]),
        super_scale=np.empty(tiles, np.float32) if options.scale_dtype == "dq8" else None,
        zero_point=np.empty(shape, np.uint8) if options.zero_points else None,
    )


def _matrix_shape(shape: tuple[int, ...], bits: int) -> tuple[int, int]:
    if bits not in BITS:
        raise ShapeError(f"expected 1…8 bits, got {bits}")
    if len(shape) != 2 or 0 in shape:
        raise ShapeError(f"expected a matrix of at least one row and column, got shape {shape}")
    return shape[0], shape[1]


def _checked_planes(planes: Bytes, rows: int, cols: int, bits: int) -> Bytes:
    _matrix_shape((rows, cols), bits)
    if rows < 0 or cols < 0:
        raise ShapeError(f"expected positive sizes, got {rows} x {cols}")
    if planes.dtype != np.uint8:
        raise DTypeError(f"expected planes of uint8, got {planes.dtype}")
    if planes.size != packed_bytes(rows, cols, bits):
        raise ShapeError(f"expected {packed_bytes(rows, cols, bits)} bytes for {rows} x {cols} at {bits} bits, got {planes.size}")
    return np.ascontiguousarray(planes).reshape(-1)


def _checked_weights(weights: Array) -> tuple[Array, int]:
    if weights.dtype.name not in _WEIGHT_TYPES:
        raise DTypeError(f"expected float32, float16 or uint16 (bfloat16 bits), got {weights.dtype}")
    return np.ascontiguousarray(weights, weights.dtype.newbyteorder("=")), _WEIGHT_TYPES[weights.dtype.name]


def _checked_importance(importance: Floats | None, rows: int, cols: int) -> tuple[Floats, int]:
    if importance is None:
        return _NO_FLOATS, 0
    if importance.dtype != np.float32:
        raise DTypeError(f"expected importance of float32, got {importance.dtype}")
    if importance.shape not in ((cols,), (rows, cols)):
        raise ShapeError(f"expected importance of shape ({cols},) or ({rows}, {cols}), got {importance.shape}")
    return np.ascontiguousarray(importance).reshape(-1), cols if importance.ndim == 2 else 0


def _check_options(options: EncodeOptions) -> None:
    levels = options.levels
    if levels.dtype != np.float32 or levels.ndim != 1 or not levels.flags.c_contiguous:
        raise DTypeError(f"expected levels as a contiguous float32 vector, got {levels.dtype} of shape {levels.shape}")
    if not 1 <= levels.size <= 1 << options.bits:
        raise ShapeError(f"expected 1…{1 << options.bits} levels, got {levels.size}")
    if not np.isfinite(levels).all() or (np.diff(levels) < 0).any():
        raise NumericsError("expected finite, ascending levels")


def _check_group_size(group_size: int, cols: int) -> None:
    if not 1 <= group_size <= cols:
        raise ShapeError(f"expected a group size of 1…{cols}, the columns of a row, got {group_size}")


def _checked_threads(threads: int) -> int:
    if not 0 <= threads <= 256:
        raise ShapeError(f"expected 0…256 threads, got {threads}")
    return threads


def _bytes_of(array: Array) -> Bytes:
    return array.reshape(-1).view(np.uint8)
