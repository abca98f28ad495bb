"""k-means levels: the codebook with the least (importance-weighted) squared error on the sample.

One level is fixed: the sample's value of largest magnitude. A block's scale maps its largest element onto the codebook's largest
level, so whatever that level is, it stands for ±1 of normalised weights; were it left to the fit, it would fall short of 1 and
the scale would stretch all others away from where they fit best (on Gaussian blocks of 64 at k = 2 the relative RMS error is 0.475
so, and 0.373 with the level fixed). The sample serves best when divided by each group's *signed* largest element, as signed
scales do (0.370).

The other 2^k − 1 levels are found in two steps, both deterministic:

1. Exact dynamic programming over at most `_BINS` bins. Their edges are spread evenly in value, in mass and in rank, so that neither
   sharp peaks nor long tails lose detail. The best last split of a prefix moves only forward as the prefix grows (the cost is
   Monge), so a layer is solved by divide and conquer, all subproblems of a depth in one vectorised pass.
   (Wu, "Optimal quantization by matrix searching", 1991; Grønlund et al., "Fast exact k-means, k-medians … in 1D", 2017.)
2. Lloyd's iterations (1957) on all distinct values, from there to a fixed point.

A sample of at most `_BINS` distinct values is thus solved to the optimum, a larger one nearly so.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from kbit.core.scheme import Scheme
from kbit.grids.sample import Float64, WeightSample

__all__ = ["kmeans_levels"]

_BINS = 1024
_LLOYD_LIMIT = 300

Indices = npt.NDArray[np.intp]


def kmeans_levels(scheme: Scheme, sample: WeightSample) -> Float64:
    """Levels of a ``kmeans`` scheme, float64 of at most 2^k; the largest magnitude is 1 (0 for a sample of zeros)."""
    free = 2**scheme.bits - 1
    if sample.peak < 0:
        return -_below_peak(-sample.values[::-1], sample.mass[::-1], -sample.peak, free)
    return _below_peak(sample.values, sample.mass, sample.peak, free)


def _below_peak(values: Float64, mass: Float64, peak: float, free: int) -> Float64:
    """The largest value `peak` and at most `free` fitted levels below it."""
    if np.count_nonzero(values != peak) <= free:
        return np.append(values, peak)
    cumulative = np.cumsum(mass)
    # moments about the median: where the mass lies, differences of prefix sums then lose the fewest digits
    center = float(values[np.searchsorted(cumulative, cumulative[-1] / 2)])
    moments = _Moments.of(values - center, mass)
    edges = _bin_edges(values, cumulative)
    bounds = edges[_best_split(moments.at(edges), peak - center, free)]
    return np.append(_lloyd(values - center, moments, bounds, peak - center) + center, peak)


@dataclass(frozen=True, slots=True)
class _Moments:
    """Prefix sums over ascending values, float64 [n + 1]: mass, mass · value and mass · value² of everything before a position."""

    zeroth: Float64
    first: Float64
    second: Float64

    @classmethod
    def of(cls, values: Float64, mass: Float64) -> Self:
        return cls(*(np.concatenate([[0.0], np.cumsum(mass * values**power)]) for power in range(3)))

    def at(self, positions: Indices) -> "_Moments":
        return _Moments(self.zeroth[positions], self.first[positions], self.second[positions])

    def squared_error(self, start: Indices, stop: Indices) -> Float64:
        """Squared error of each interval start…stop about its own mean; 0 where empty."""
        mass = self.zeroth[stop] - self.zeroth[start]
        first = self.first[stop] - self.first[start]
        second = self.second[stop] - self.second[start]
        # rounding of the prefix sums may leave the difference a little below 0
        error: Float64 = np.maximum(second - first**2 / np.where(mass > 0, mass, 1.0), 0.0)
        return error

    def squared_error_to(self, level: float) -> Float64:
        """Squared error of the interval from each position to the end about `level`."""
        mass = self.zeroth[-1] - self.zeroth
        first = self.first[-1] - self.first
        second = self.second[-1] - self.second
        error: Float64 = second - 2 * level * first + level * level * mass
        return error


def _bin_edges(values: Float64, cumulative: Float64) -> Indices:
    """At most `_BINS` + 1 positions 0 … n that cut the sample into bins; every value its own bin where that is enough."""
    if values.size <= _BINS:
        return np.arange(values.size + 1)
    inner = np.arange(1, _BINS // 3) / (_BINS // 3)
    by_value = np.searchsorted(values, values[0] + inner * (values[-1] - values[0]))
    by_mass = np.searchsorted(cumulative, inner * cumulative[-1])
    by_rank = (inner * values.size).astype(np.intp)
    return np.unique(np.concatenate([[0], by_value, by_mass, by_rank, [values.size]]))


def _best_split(moments: _Moments, peak: float, free: int) -> Indices:
    """Where each of `free` clusters and the one of `peak` start, as bin numbers [free + 1], ascending from 0."""
    bins = moments.zeroth.size
    error = moments.squared_error(np.zeros(bins, dtype=np.intp), np.arange(bins))
    choices = []
    for _ in range(free - 1):
        error, choice = _add_cluster(error, moments)
        choices.append(choice)
    bounds = [int(np.argmin(error + moments.squared_error_to(peak)))]
    for choice in reversed(choices):
        bounds.append(int(choice[bounds[-1]]))
    return np.array([0, *reversed(bounds)])


def _add_cluster(error: Float64, moments: _Moments) -> tuple[Float64, Indices]:
    """One layer of the programme: least error of each prefix with one more cluster, and where that cluster starts.

    `error[i]` is the least error of the first i bins. Prefixes are solved at halving strides; the choices of the two neighbours
    solved before bound the candidates of a prefix, so a depth has about as many candidates as there are bins.
    """
    size = error.size
    best, choice = np.zeros(size), np.zeros(size, dtype=np.intp)
    stride = 1 << (size - 1).bit_length()
    while stride := stride // 2:
        stops = np.arange(stride, size, 2 * stride)
        low = choice[stops - stride]
        high = np.where(stops + stride < size, choice[np.minimum(stops + stride, size - 1)], stops)
        counts = np.minimum(high, stops) - low + 1
        offsets = np.cumsum(counts) - counts
        starts = np.arange(counts.sum()) - np.repeat(offsets - low, counts)
        totals = error[starts] + moments.squared_error(starts, np.repeat(stops, counts))
        best[stops] = np.minimum.reduceat(totals, offsets)
        hits = np.flatnonzero(totals == np.repeat(best[stops], counts))
        choice[stops] = starts[hits[np.searchsorted(hits, offsets)]]  # the first hit of each prefix
    return best, choice


def _lloyd(values: Float64, moments: _Moments, bounds: Indices, peak: float) -> Float64:
    """Free levels at a fixed point of Lloyd's iterations that start from clusters [bounds[m], bounds[m + 1])."""
    levels = np.empty(0)
    for _ in range(_LLOYD_LIMIT):
        mass = np.diff(moments.zeroth[bounds])
        levels = np.diff(moments.first[bounds])[mass > 0] / mass[mass > 0]
        moved = np.concatenate([[0], np.searchsorted(values, (levels + np.append(levels[1:], peak)) / 2)])
        if np.array_equal(moved, bounds):
            break
        bounds = moved
    return levels
