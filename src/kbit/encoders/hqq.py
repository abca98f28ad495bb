"""HQQ: scales and zero points by half-quadratic optimisation of a norm that forgives outliers. Looks at the weights alone.

Badri & Shaji: "Half-Quadratic Quantization of Large Machine Learning Models" (2023). A group minimises Σ_j p_j |w_j − ŵ_j|^q with q < 1,
which counts many small errors more and few large ones less than squares do. A second variable e takes the large errors up, and both are
solved in turns with a growing β:

    e      ← shrink(w − ŵ),  shrink(r) = sign(r) · max(0, |r| − |r|^(q−1) / β)        (r in widths of a level of this group)
    scale  ← Σ p (w − e)·v / Σ p v²,  v = level − zero_point                          least squares on what is left
    zero   ← round(Σ p (level − (w − e) / scale) / Σ p)                               asymmetric schemes

The paper moves the zero point alone; here the scale moves too, so that it serves grids without zero points. Every candidate is rounded
to its stored form before it is judged, and a group keeps the one with the least norm, the start (the `mse` search) included.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.encoders.reference import nearest_codes
from kbit.native.encoding import EncodedMatrix, EncodeOptions, pack
from kbit.tensor.blocks import rows_of_tiles, tiles_of_rows
from kbit.tensor.scales import decode_scale, round_scale

__all__ = ["ITERATIONS", "NORM", "half_quadratic"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

#: the exponent q of the norm
NORM = 0.7
ITERATIONS = 20
_BETA = 4.0
_GROWTH = 1.1
_WEIGHTS_AT_ONCE = 1 << 20
_TILE = 16


def half_quadratic(
    weights: Float32, encoded: EncodedMatrix, options: EncodeOptions, *, importance: Float32 | None = None, matrix_super_scale: float = 0.0
) -> EncodedMatrix:
    """`encoded` with other scales, zero points and codes.

    Args:
        weights: [rows, cols], finite.
        encoded: the start, of all these rows.
        options: what it was encoded with.
        importance: p, [cols] or [rows, cols]; None for ones.
        matrix_super_scale: the super-scale of e4m3 scales.
    """
    rows, cols = weights.shape
    unit = np.array([matrix_super_scale], np.float32) if options.scale_dtype == "e4m3" else encoded.super_scale
    value = rows_of_tiles(decode_scale(encoded.scale, unit, options.scale_dtype), rows)
    stored = rows_of_tiles(encoded.scale, rows)
    zero = np.zeros_like(value) if encoded.zero_point is None else rows_of_tiles(encoded.zero_point, rows).astype(np.float32)
    units = None if unit is None else np.repeat(unit, _TILE)[:rows, None] if options.scale_dtype == "dq8" else unit[:, None]
    codes = np.empty((rows, cols), np.uint8)
    stored, zero = stored.copy(), zero.copy()
    step = max(1, _WEIGHTS_AT_ONCE // cols)
    for begin in range(0, rows, step):
        span = slice(begin, begin + step)
        given = importance if importance is None or importance.ndim == 1 else importance[span]
        group = _Groups(weights[span], given, options, units[span] if units is not None and len(units) > 1 else units)
        stored[span], zero[span], codes[span] = group.run(stored[span], value[span], zero[span])
    zero_point = None if encoded.zero_point is None else tiles_of_rows(zero.astype(np.uint8))
    return replace(encoded, planes=pack(codes, options.bits), scale=tiles_of_rows(stored), zero_point=zero_point)


class _Groups:
    """Some rows at work, every group padded to one width with weights that do not count."""

    def __init__(self, weights: Float32, importance: Float32 | None, options: EncodeOptions, units: Float32 | None) -> None:
        self.options, self.units, self.cols = options, units, weights.shape[1]
        self.weights = self._grouped(weights)
        given = np.ones(self.cols, np.float32) if importance is None else importance
        self.importance = self._grouped(np.broadcast_to(given, weights.shape))
        levels = options.levels
        self.width = float(levels[-1] - levels[0]) / max(levels.size - 1, 1)

    def run(self, stored: Array, value: Float32, zero: Float32) -> tuple[Array, Float32, npt.NDArray[np.uint8]]:
        """(stored scales, zero points, codes) from a start, [rows, groups] each; codes [rows, cols]."""
        best, best_value, best_zero = stored, value, zero
        level, residual = self._judged(value, zero)
        least = self._norm(residual)
        beta = _BETA
        for _ in range(ITERATIONS):
            kept = self.weights - self._shrunk(residual, value, beta)
            stored, value, zero = self._solved(kept, level, value, zero)
            level, residual = self._judged(value, zero)
            norm = self._norm(residual)
            better = norm < least
            if not better.any():
                break
            least = np.where(better, norm, least)
            best, best_value, best_zero = (
                np.where(better, new, old) for new, old in ((stored, best), (value, best_value), (zero, best_zero))
            )
            beta *= _GROWTH
        codes = nearest_codes(self.weights, best_value[..., None], best_zero[..., None], self.options.levels)
        return best, best_zero, codes.reshape(len(best), -1)[:, : self.cols]

    def _grouped(self, values: Float32) -> Float32:
        size = self.options.group_size
        padded = np.pad(values, ((0, 0), (0, -values.shape[1] % size)))
        return padded.reshape(len(values), -1, size)

    def _judged(self, value: Float32, zero: Float32) -> tuple[Float32, Float32]:
        """(levels in use less the zero point, what they leave)."""
        level = self.options.levels[nearest_codes(self.weights, value[..., None], zero[..., None], self.options.levels)] - zero[..., None]
        return level, self.weights - level * value[..., None]

    def _norm(self, residual: Float32) -> npt.NDArray[np.float64]:
        powers = self.importance * np.abs(residual) ** np.float32(NORM)
        return np.asarray(powers.sum(-1, dtype=np.float64))

    def _shrunk(self, residual: Float32, value: Float32, beta: float) -> Float32:
        unit = (np.abs(value) * self.width)[..., None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            r = np.abs(residual) / unit
            large = np.maximum(r - r ** (NORM - 1) / beta, 0)
        return np.where((unit > 0) & (r > 0), np.sign(residual) * large * unit, 0).astype(np.float32)

    def _solved(self, kept: Float32, level: Float32, value: Float32, zero: Float32) -> tuple[Array, Float32, Float32]:
        """(stored scales, their values, zero points) that fit `kept` best, by least squares; what cannot be fitted stays."""
        mass = self.importance.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            fitted = (mass * kept * level).sum(-1) / (mass * level * level).sum(-1)
            scale = np.where(np.isfinite(fitted) & (fitted != 0), fitted, value).astype(np.float32)
            if self.options.zero_points:
                offset = (mass * ((level + zero[..., None]) - kept / scale[..., None])).sum(-1) / mass.sum(-1)
                last = self.options.levels.size - 1
                zero = np.where(np.isfinite(offset), np.clip(np.rint(offset), 0, last), zero).astype(np.float32)
        stored, value = round_scale(scale, self.units, self.options.scale_dtype)
        return stored, value, zero
