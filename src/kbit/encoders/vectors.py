"""Codes, scales and codebook of a vector grid: w_V ≈ scale · codebook[code] for V = `dims` neighbouring weights of a row.

Weights come in groups, [groups, vectors, dims], padded with zeros of importance 0. All errors are Σ h (w − scale · c)², h the importance of
each weight (1 where there is none).

    code      the entry with the least error for the group's scale: the largest (h w/scale)·c − ½ h·c²
    scale     the root of the group's mean square; searched (`mse`): the best of some multiples of it, refined by least squares
    codebook  k-means in `dims` dimensions (Lloyd, 1957; Linde, Buzo, Gray, 1980), weights and scales in turn with it, from the codebook
              that is best for Gaussian weights
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kbit.grids.gaussian_vectors import gaussian_codebook

__all__ = ["VectorGroups", "best_scales", "fit_codebook", "nearest_entries"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

MULTIPLIERS = (0.8, 0.87, 0.94, 1.0, 1.06, 1.13, 1.2)
_REFITS = 3
_ROUNDS = 30
_GAIN = 1e-4  # relative, of a round that is worth another one
_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class VectorGroups:
    """Groups of vectors with their importance.

    Attributes:
        weights: float32 [groups, vectors, dims].
        importance: float32 of the same shape; 0 for what is only padding.
    """

    weights: Float32
    importance: Float32

    @classmethod
    def of(cls, rows: Float32, importance: Float32 | None, group_size: int, dims: int) -> Self:
        """Groups of `group_size` columns of rows [n, cols], row by row; importance is [cols], [n, cols] or None."""
        count, cols = rows.shape
        per_row, width = -(-cols // group_size), -(-group_size // dims) * dims
        shape = (count * per_row, width // dims, dims)
        given = np.broadcast_to(np.float32(1) if importance is None else importance, rows.shape)
        return cls(_grouped(rows, per_row, group_size, width).reshape(shape), _grouped(given, per_row, group_size, width).reshape(shape))

    def nearest(self, scale: Float32, codebook: Float32) -> Bytes:
        """Codes [groups, vectors] for scales [groups]."""
        dims, divisor = self.weights.shape[-1], np.where(scale == 0, np.float32(1), scale)[:, None, None]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # weights far beyond what a stored scale reaches
            units = np.asarray(self.weights / divisor, np.float32)
            codes = nearest_entries(units.reshape(-1, dims), self.importance.reshape(-1, dims), codebook)
        codes.reshape(self.weights.shape[:2])[scale == 0] = 0
        return codes.reshape(self.weights.shape[:2])

    def normalised(self) -> tuple[Self, Float32]:
        """(the groups divided by their largest magnitude, that magnitude [groups], 1 for zeros): no square leaves float32."""
        peak = np.abs(self.weights).max(axis=(1, 2))
        peak = np.where(peak == 0, np.float32(1), peak)
        with np.errstate(under="ignore"):
            return replace(self, weights=np.asarray(self.weights / peak[:, None, None], np.float32)), peak

    def fit(self, codes: Bytes, codebook: Float32) -> tuple[Float32, Float32]:
        """(Σ h w c, Σ h c²) of each group, float32 [groups]: the scale with the least error is their quotient."""
        entries = codebook[codes]
        weighted = self.importance * entries
        return np.einsum("gvd,gvd->g", weighted, self.weights), np.einsum("gvd,gvd->g", weighted, entries)


def _grouped(values: Array, per_row: int, group_size: int, width: int) -> Float32:
    count, cols = values.shape
    padded = np.zeros((count, per_row * group_size), np.float32)
    padded[:, :cols] = values
    groups = padded.reshape(count * per_row, group_size)
    return np.pad(groups, ((0, 0), (0, width - group_size)))


def nearest_entries(vectors: Float32, importance: Float32, codebook: Float32) -> Bytes:
    """Entry of `codebook` [n, dims] with the least Σ h (v − c)² for each of `vectors` [count, dims]; the first of equals."""
    table = np.concatenate([codebook, codebook * codebook * np.float32(-0.5)], axis=1).T
    codes = np.empty(len(vectors), np.uint8)
    for begin in range(0, len(vectors), _AT_ONCE):
        h, v = importance[begin : begin + _AT_ONCE], vectors[begin : begin + _AT_ONCE]
        codes[begin : begin + _AT_ONCE] = np.argmax(np.concatenate([h * v, h], axis=1) @ table, axis=1)
    return codes


def mean_square_scales(groups: VectorGroups) -> Float32:
    """Root of the mean square of each group, weighed by importance; of all its weights alike where none counts."""
    square = np.einsum("gvd,gvd,gvd->g", groups.importance, groups.weights, groups.weights)
    mass = groups.importance.sum((1, 2))
    alike = np.square(groups.weights).mean((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(np.where(mass > 0, square / mass, alike)), np.float32)


def best_scales(groups: VectorGroups, codebook: Float32, *, search: bool) -> Float32:
    """Scale of each group, float32 [groups]."""
    groups, peak = groups.normalised()
    scale = start = mean_square_scales(groups)
    if not search:
        return scale * peak
    best = np.full(len(start), -np.inf, np.float32)
    product = square = np.zeros_like(start)

    def consider(candidate: Float32) -> None:
        nonlocal scale, best, product, square
        found = groups.fit(groups.nearest(candidate, codebook), codebook)
        gain = candidate * (2 * found[0] - candidate * found[1])  # of squared error against weights of 0
        better = gain > best
        scale, best = np.where(better, candidate, scale), np.where(better, gain, best)
        product, square = np.where(better, found[0], product), np.where(better, found[1], square)

    for multiplier in MULTIPLIERS:
        consider(start * np.float32(multiplier))
    for _ in range(_REFITS):
        with np.errstate(divide="ignore", invalid="ignore"):
            consider(np.where(square > 0, product / square, scale).astype(np.float32))
    return np.asarray(scale * peak, np.float32)


def fit_codebook(groups: VectorGroups, bits: int) -> Float32:
    """Codebook [2^bits, dims] for a sample of groups.

    Codes, scales and entries are improved in turn until the error stands still. An entry that no vector chooses moves to where the error
    is largest. A sample of zeros gets the Gaussian codebook.
    """
    dims = groups.weights.shape[-1]
    codebook = gaussian_codebook(bits, dims)
    groups = _of_use(groups)
    if not len(groups.weights):
        return codebook
    groups, peak = groups.normalised()
    with np.errstate(under="ignore"):
        groups = replace(groups, importance=groups.importance * np.square(peak / peak.max())[:, None, None])
    scale, last = mean_square_scales(groups), np.inf
    for _ in range(_ROUNDS):
        codes = groups.nearest(scale, codebook)
        product, square = groups.fit(codes, codebook)
        scale = np.where(square > 0, product / np.maximum(square, np.finfo(np.float32).tiny), scale).astype(np.float32)
        codebook = _means(groups, scale, codes, codebook)
        error = float(np.sum(groups.importance * np.square(groups.weights - scale[:, None, None] * codebook[codes]), dtype=np.float64))
        if last - error <= _GAIN * last:
            break
        last = error
    return codebook


def _of_use(groups: VectorGroups) -> VectorGroups:
    """Groups with a weight that counts; all weights alike where none does."""
    if not groups.importance.any():
        groups = VectorGroups(groups.weights, np.ones_like(groups.importance))
    used = (groups.importance * np.abs(groups.weights)).any((1, 2))
    return VectorGroups(groups.weights[used], groups.importance[used])


def _means(groups: VectorGroups, scale: Float32, codes: Bytes, codebook: Float32) -> Float32:
    """Entries with the least error for codes and scales: Σ h s w / Σ h s², component by component."""
    weighted = groups.importance * scale[:, None, None]
    out, flat = codebook.copy(), codes.reshape(-1)
    for component in range(codebook.shape[1]):
        mass = np.bincount(flat, (weighted * scale[:, None, None])[..., component].reshape(-1), len(codebook))
        moment = np.bincount(flat, (weighted * groups.weights)[..., component].reshape(-1), len(codebook))
        np.divide(moment, mass, out=out[:, component], where=mass > 0, casting="unsafe")
    empty = np.flatnonzero(np.bincount(flat, groups.importance.sum(-1).reshape(-1), len(codebook)) == 0)
    if len(empty):
        error = np.sum(groups.importance * np.square(groups.weights - scale[:, None, None] * out[codes]), axis=-1)
        worst = np.argsort(-error.reshape(-1), kind="stable")[: len(empty)]
        divisor = np.where(scale == 0, np.float32(1), scale)[worst // codes.shape[1]]
        moved = groups.weights.reshape(-1, codebook.shape[1])[worst] / divisor[:, None]
        out[empty[: len(worst)]] = moved
    return out
