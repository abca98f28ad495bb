"""Scales in their stored form, in numpy: the reference of the native encoder, and what every reader does.

    fp16   uint16 [tiles, groups, 16]   the bits of an IEEE half
    e4m3   uint8  [tiles, groups, 16]   OCP E4M3 bits (OCP 8-bit Floating Point Specification 1.0), times super_scale float32 [1],
                                        which maps the matrix' largest absmax scale to 448
    dq8    int8   [tiles, groups, 16]   times super_scale float32 [tiles], which maps a tile's largest absmax scale to 127

A scale is rounded to the nearest stored value, ties to even. Beyond the largest it saturates (65504; 448 or 127 super-scales); what
underflows is +0, never −0, and all weights of its group decode to 0. Super-scales are cut so that no scale times level leaves
float32. NaN and Inf are never written and refused when read.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kbit.native.encoding import SCALE_DTYPES

__all__ = ["E4M3_VALUES", "SCALE_DTYPES", "SCALE_LIMITS", "decode_scale", "round_scale", "scale_anchor", "scale_values", "super_scale_for"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

#: scale_dtype → largest stored magnitude, in super-scales where there are any
SCALE_LIMITS: dict[str, float] = {"fp16": 65504.0, "e4m3": 448.0, "dq8": 127.0}


def _e4m3_values() -> Float32:
    """Value of each of the 256 codes: s·2^(e−7)·(1 + m/8), subnormals s·2^−6·m/8, NaN where exponent and mantissa are all ones."""
    code = np.arange(128)
    exponent, mantissa = code >> 3, code & 7
    magnitude = np.where(exponent == 0, np.ldexp(mantissa / 8.0, -6), np.ldexp(1 + mantissa / 8.0, exponent - 7))
    magnitude[127] = np.nan
    return np.concatenate([magnitude, -magnitude]).astype(np.float32)


E4M3_VALUES: Float32 = _e4m3_values()
E4M3_VALUES.flags.writeable = False


class _Scaled(Protocol):
    """What `scale_values` reads of a quantized tensor."""

    @property
    def scheme(self) -> Any: ...
    @property
    def scale(self) -> Array: ...
    @property
    def super_scale(self) -> Float32 | None: ...


def decode_scale(scale: Array, super_scale: Float32 | None, scale_dtype: str) -> Float32:
    """float32 scales of the stored form [..., tiles, groups, 16]; super_scale is [..., 1] (e4m3) or [..., tiles] (dq8)."""
    if scale_dtype == "fp16":
        return scale.view(np.float16).astype(np.float32)
    values = E4M3_VALUES[scale] if scale_dtype == "e4m3" else scale.astype(np.float32)
    assert super_scale is not None
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # readers of hostile files look at the result
        return np.asarray(values * super_scale[..., None, None], np.float32)


def scale_values(quantized: _Scaled) -> Float32:
    """float32 scales of a quantized tensor, of the shape of its stored ones."""
    return decode_scale(quantized.scale, quantized.super_scale, quantized.scheme.scale_dtype)


def round_scale(scale: Float32, super_scale: Float32 | None, scale_dtype: str) -> tuple[Array, Float32]:
    """(stored scales, what they mean) for float32 scales; super_scale broadcasts against them."""
    limit = SCALE_LIMITS[scale_dtype]
    unit = np.float32(1) if super_scale is None else super_scale
    with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
        units = np.clip(np.where(unit == 0, np.float32(0), scale / unit), -limit, limit).astype(np.float32)
        if scale_dtype == "fp16":
            stored: Array = units.astype(np.float16).view(np.uint16)
            values = stored.view(np.float16).astype(np.float32)
        elif scale_dtype == "e4m3":
            stored = _nearest_e4m3(units)
            values = E4M3_VALUES[stored] * unit
        else:
            stored = np.rint(units).astype(np.int8)
            values = stored.astype(np.float32) * unit
    zero = values == 0
    return np.where(zero, stored.dtype.type(0), stored), np.where(zero, np.float32(0), values)


def _nearest_e4m3(units: Float32) -> npt.NDArray[np.uint8]:
    """Nearest code of values in ±448; of two equally near the even one (neighbours of a code have the other parity)."""
    table = E4M3_VALUES[:127].astype(np.float64)
    magnitude = np.abs(units).astype(np.float64)
    middles = (table[:-1] + table[1:]) / 2
    low, high = np.searchsorted(middles, magnitude, "left"), np.searchsorted(middles, magnitude, "right")
    code = np.where(low % 2 == 0, low, high)
    return np.where(np.signbit(units), code | 0x80, code).astype(np.uint8)


def scale_anchor(levels: Float32) -> tuple[float, bool]:
    """(the level that a group's extreme element maps to, whether its negative is a level too, so that scales are positive)."""
    low, high = float(levels[0]), float(levels[-1])
    return (low if -low > high else high), -low == high


def super_scale_for(largest: npt.ArrayLike, scale_dtype: str, anchor: float) -> Float32:
    """Super-scale that maps the largest absmax scale (float32) to the largest stored one (e4m3, dq8)."""
    limit = SCALE_LIMITS[scale_dtype]
    with np.errstate(divide="ignore"):
        most = float(np.finfo(np.float32).max) * (1 - 2.0**-10) / np.float64(limit * abs(anchor))
    return np.minimum(np.asarray(largest, np.float64) / limit, most).astype(np.float32)
