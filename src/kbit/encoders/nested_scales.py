"""Levels and scales of nested codes: a group's scale is the best compromise for the codes of every k, not for all K bits alone.

With one scale a group, D_k is the (importance-weighted) squared error of the first k bits. The scale is that of a set, and then of a finer
one around the best, with the least Σ_k share_k · D_k / (D_k of the tensor), so each k counts by its relative excess. By `SHARES` the worst
excess of KL divergence over k ≥ 3, beside k-means levels and scales of its own, was least on a small model: few bits need a larger share,
since a scale that suits three bits is one of few, and one that suits eight is found near any.

Levels and scales are fitted in turns to a sample: levels of all k (`kbit.grids.nested.tree_levels`), scales for these, levels for what
then are the weights in units of their scale, scales again, and at last the levels as means of what codes stand for.

A candidate costs a weight one look-up: what all k lose together is tabled over the weight in units of the scale, in steps of 2^−13 (a
fortieth of a step between levels of 8 bits).
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kbit.encoders.vectors import VectorGroups
from kbit.grids.nested import coarse_levels, distinct, tree_levels
from kbit.grids.sample import WeightSample

__all__ = ["COARSE", "FINE", "LARGEST", "SHARES", "Tree", "UnitGroups", "fit_tree"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: of D_k in what is made least, for k = 0…8
SHARES = (0.0, 0.0, 0.1, 4.0, 6.0, 4.0, 1.8, 1.0, 0.7)
_LEAST, _MOST, _COUNT = 0.4, 1.3, 48
_STEP = (_MOST / _LEAST) ** (1 / (_COUNT - 1))
#: scales that are tried, in parts of the group's extreme element
COARSE: Float32 = np.concatenate([[1.0], *(sign * np.geomspace(_LEAST, _MOST, _COUNT) for sign in (1, -1))]).astype(np.float32)
#: and then in parts of the best of those
FINE: Float32 = np.concatenate([[1.0], np.geomspace(1 / _STEP, _STEP, 32)]).astype(np.float32)
#: no scale is larger, in parts of the extreme element
LARGEST = _MOST * _STEP
#: the table of errors: cells, and how far it reaches in units of the scale
_CELLS, _REACH = 1 << 16, 4.0
_WEIGHTS_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class UnitGroups:
    """Groups of weights in units of their extreme element.

    Attributes:
        units: float32 [groups, width], −1…1; zeros where the group has no other weights.
        importance: float32 [groups, width], 1 at most; 0 for padding.
        extreme: element of largest magnitude, the positive one of a tie, float32 [groups].
        share: what a group's squared error in these units counts for beside that of others, float64 [groups], 1 at most.
    """

    units: Float32
    importance: Float32
    extreme: Float32
    share: Float64

    @classmethod
    def of(cls, groups: VectorGroups) -> Self:
        """From groups of vectors of one dimension."""
        weights, importance = groups.weights[..., 0], groups.importance[..., 0]
        high, low = weights.max(axis=1), weights.min(axis=1)
        extreme = np.where(high >= -low, high, low)
        most = importance.max(axis=1)
        with np.errstate(under="ignore"):
            units = weights / np.where(extreme == 0, np.float32(1), extreme)[:, None]
            share = np.square(extreme.astype(np.float64)) * most
            share = share / (float(share.max()) or 1.0)
            importance = (importance / np.where(most == 0, np.float32(1), most)[:, None]).astype(np.float32)
        return cls(units.astype(np.float32), importance, extreme, share)

    def best(self, errors: Float32, ratios: Float32) -> npt.NDArray[np.intp]:
        """Which of the scales `ratios` [n, groups], in parts of the extreme element, loses least, [groups]; the first of equals.

        Scales of 0 and those that put weights beyond the table `errors` are never taken, unless they all are.
        """
        found = np.empty(len(self.units), np.intp)
        step = max(1, _WEIGHTS_AT_ONCE // self.units.shape[1])
        for begin in range(0, len(found), step):
            part = slice(begin, begin + step)
            found[part] = self._best(part, errors, ratios[:, part])
        return found

    def _best(self, part: slice, errors: Float32, ratios: Float32) -> npt.NDArray[np.intp]:
        units, importance = self.units[part], self.importance[part]
        fits = np.isfinite(ratios) & (np.abs(ratios) * np.float32(_REACH) > 1)
        cost = np.full(ratios.shape, np.inf)
        for index, (ratio, fit) in enumerate(zip(ratios, fits, strict=True)):
            cell = units * (np.float32(_CELLS / 2 / _REACH) / np.where(fit, ratio, np.float32(1)))[:, None] + np.float32(_CELLS // 2)
            lost = np.einsum("gw,gw->g", errors[cell.astype(np.int32)], importance) * np.square(ratio, dtype=np.float64)
            cost[index] = np.where(fit, lost, np.inf)
        return np.asarray(cost.argmin(axis=0))

    def search(self, errors: Float32) -> Float32:
        """Scales of the least error in parts of the extreme element, float32 [groups], as real numbers."""
        first = COARSE[self.best(errors, np.repeat(COARSE[:, None], len(self.units), axis=1))]
        ratios = FINE[:, None] * first
        return ratios[self.best(errors, ratios), np.arange(len(first))]

    def sample(self, ratio: Float32) -> tuple[WeightSample, float]:
        """(weights in units of the scales `ratio` [groups], the largest magnitude that they are divided by); one zero for no weights."""
        used = (self.extreme != 0) & (self.share > 0)
        if not used.any():
            return WeightSample.of(np.zeros(1, np.float32)), 1.0
        values = self.units[used] / ratio[used, None]
        mass = self.importance[used] * (self.share[used] * np.square(ratio[used], dtype=np.float64))[:, None]
        inside = mass > 0
        return WeightSample.of(values[inside], mass[inside]), float(np.abs(values[inside]).max()) or 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Levels of every k.

    Attributes:
        bits: K.
        table: float32 [2 · 2^K], the levels of k bits at 2^k.
    """

    bits: int
    table: Float32

    def levels(self, bits: int) -> Float32:
        """Those of `bits` bits."""
        return self.table[1 << bits : 2 << bits]

    def losses(self, sample: WeightSample, top: float) -> Float64:
        """Squared error of the first k bits, float64 [K + 1], k = 0 and 1 left at 0, of weights sample · top."""
        values = sample.values.astype(np.float64) * top
        codes, losses = self.nearest(values), np.zeros(self.bits + 1)
        for k in range(2, self.bits + 1):
            losses[k] = (sample.mass * np.square(values - self.levels(k)[codes >> (self.bits - k)])).sum()
        return losses

    def errors(self, losses: Float64) -> Float32:
        """Table of Σ_k share_k · (v − level)² / losses[k] over v in −4…4, float32 [cells]."""
        places = np.asarray(((np.arange(_CELLS) + 0.5) / (_CELLS / 2) - 1) * _REACH, np.float64)
        codes, total = self.nearest(places), np.zeros(_CELLS)
        floor = 1e-12 * losses.max()
        for k in range(2, self.bits + 1):
            if floor > 0:
                total += SHARES[k] / max(losses[k], floor) * np.square(places - self.levels(k)[codes >> (self.bits - k)])
        return (total / (total.max() or 1.0)).astype(np.float32)

    def nearest(self, values: Float64) -> npt.NDArray[np.intp]:
        """K-bit codes of values in units of their scale."""
        levels = self.levels(self.bits).astype(np.float64)
        return np.searchsorted((levels[1:] + levels[:-1]) / 2, values)


def fit_tree(groups: UnitGroups, bits: int) -> tuple[Tree, Float32]:
    """(levels of every k, the table of errors to search scales with) for a sample of groups."""
    ratio = np.ones(len(groups.units), np.float32)
    tree, errors = _fitted(groups, ratio, bits)
    tree, errors = _fitted(groups, groups.search(errors), bits)
    sample, top = groups.sample(groups.search(errors))
    values = sample.values.astype(np.float64) * top
    levels, codes = tree.levels(bits).astype(np.float64), tree.nearest(values)
    mass = np.bincount(codes, sample.mass, levels.size)
    first = np.bincount(codes, sample.mass * values, levels.size)
    finest = distinct(np.where(mass > 0, first / np.where(mass > 0, mass, 1), levels)).astype(np.float32)
    scaled = WeightSample(values, sample.mass, sample.peak)
    tree = Tree(bits, np.concatenate([coarse_levels(finest, bits, scaled), finest]))
    return tree, tree.errors(tree.losses(sample, top))


def _fitted(groups: UnitGroups, ratio: Float32, bits: int) -> tuple[Tree, Float32]:
    sample, top = groups.sample(ratio)
    tree = Tree(bits, tree_levels(bits, sample, SHARES) * np.float32(top))
    return tree, tree.errors(tree.losses(sample, top))
