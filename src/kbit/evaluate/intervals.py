"""Confidence intervals over the chunks of a text.

Neighbouring tokens are not independent, so the unit is a chunk: consecutive windows are joined into at most `MAX_CHUNKS`
chunks, which are treated as independent draws. For chunk c let x_c be a sum (nats, agreements, …) and n_c what it is divided
by (tokens, bytes). The estimate is the ratio r = Σx / Σn. Its variance is the linearised (cluster-robust) one,

    var(r) = C/(C−1) · Σ_c (x_c − r·n_c)² / (Σn)²                    (Cochran, Sampling Techniques, 3rd ed., §6.3)

and the interval is r ± t·√var with Student's t at C − 1 degrees of freedom. A quantile q_p takes the interval of Woodruff
(JASA 47, 1952): the share of values ≤ q_p is such a ratio, its interval [p − e, p + e] is read off the empirical
distribution; e is at least what independent tokens would give, and where p + e reaches 1 the sample is too small for an upper
bound. No random numbers are drawn, so the same losses
always give the same interval. With one chunk there is no interval, and a maximum has none at all (a sample does not say how
far the tail goes on).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kbit.core.errors import ShapeError

__all__ = ["CONFIDENCE", "MAX_CHUNKS", "Estimate", "chunk_sums", "exponential", "quantile_estimate", "ratio_estimate", "student_t"]

#: enough for Student's t to be near its limit, few enough for a chunk to outlast the correlation of neighbouring windows
MAX_CHUNKS = 64

#: coverage of every interval
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its confidence interval; a bound is None where none can be given."""

    value: float
    low: float | None = None
    high: float | None = None

    def to_json(self) -> list[float | None]:
        """The interval as ``[low, high]``; the value stands under a key of its own."""
        return [self.low, self.high]

    def format(self, spec: str = ".4f") -> str:
        """For example ``13.2041 [13.1020, 13.3071]``; ``…`` stands for a bound that is not there."""
        if self.low is None and self.high is None:
            return f"{self.value:{spec}}"
        low, high = ("…" if bound is None else f"{bound:{spec}}" for bound in (self.low, self.high))
        return f"{self.value:{spec}} [{low}, {high}]"

    def clipped(self, lowest: float, highest: float) -> "Estimate":
        """The interval cut to the range that the figure can take."""
        low = None if self.low is None else max(self.low, lowest)
        return Estimate(self.value, low, None if self.high is None else min(self.high, highest))


def chunk_sums(values: ArrayLike) -> NDArray[np.float64]:
    """Sums of per-window `values` over at most `MAX_CHUNKS` runs of consecutive windows of nearly equal number."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ShapeError(f"expected a value for each window, got shape {array.shape}")
    return np.add.reduceat(array, _starts(array.size))


def _starts(windows: int) -> NDArray[np.int64]:
    chunks = min(windows, MAX_CHUNKS)
    return np.arange(chunks, dtype=np.int64) * windows // chunks


def ratio_estimate(sums: ArrayLike, counts: ArrayLike) -> Estimate:
    """Σ sums / Σ counts with its cluster-robust t-interval.

    Args:
        sums: for each window the sum of the quantity.
        counts: for each window what it is divided by; not all zero.
    """
    x, n = chunk_sums(sums), chunk_sums(counts)
    total = float(n.sum())
    ratio = float(x.sum()) / total
    half = _half_width(x - ratio * n, total)
    return Estimate(ratio) if half is None else Estimate(ratio, ratio - half, ratio + half)


def _half_width(residuals: NDArray[np.float64], total: float) -> float | None:
    chunks = residuals.size
    if chunks < 2:
        return None
    variance = chunks / (chunks - 1) * float((residuals**2).sum()) / total**2
    return student_t(CONFIDENCE, chunks - 1) * math.sqrt(variance)


def quantile_estimate(values: ArrayLike, windows: ArrayLike, share: float) -> Estimate:
    """The `share` quantile of token values (lower empirical quantile), with Woodruff's interval.

    Args:
        values: one value a token.
        windows: the window of each token, ascending from 0.
        share: 0…1, for example 0.99.
    """
    x, owner = np.asarray(values, dtype=np.float64), np.asarray(windows, dtype=np.int64)
    ordered = np.sort(x)
    value = _at(ordered, share)
    number = int(owner[-1]) + 1
    below = chunk_sums(np.bincount(owner, weights=x <= value, minlength=number))
    counts = chunk_sums(np.bincount(owner, minlength=number))
    reached = float(below.sum()) / x.size
    half = _half_width(below - reached * counts, float(x.size))
    if half is None:
        return Estimate(value)
    if ordered[0] == ordered[-1]:
        return Estimate(value, value, value)
    half = max(half, student_t(CONFIDENCE, below.size - 1) * math.sqrt(share * (1.0 - share) / x.size))
    high = _at(ordered, share + half) if share + half < 1.0 else None
    return Estimate(value, _at(ordered, share - half), high)


def _at(ordered: NDArray[np.float64], share: float) -> float:
    rank = math.ceil(share * ordered.size - 1e-9)
    return float(ordered[min(max(rank, 1), ordered.size) - 1])


def exponential(estimate: Estimate) -> Estimate:
    """The exponential of an estimate and its bounds: perplexity from nats a token; beyond the floats it is infinite."""
    return Estimate(_exp(estimate.value), *(None if bound is None else _exp(bound) for bound in (estimate.low, estimate.high)))


def _exp(value: float) -> float:
    return math.exp(value) if value < 709.0 else math.inf


def student_t(confidence: float, degrees: int) -> float:
    """The t with P(|T| ≤ t) = confidence at whole `degrees` of freedom, by bisection on the finite series of its distribution.

    The series is 26.7.3–26.7.4 of Abramowitz & Stegun, Handbook of Mathematical Functions.
    """
    if degrees < 1 or not 0.0 < confidence < 1.0:
        raise ShapeError(f"expected degrees ≥ 1 and a confidence inside (0, 1), got {degrees} and {confidence}")
    low, high = 0.0, math.pi / 2  # t = √degrees · tan θ
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _central(middle, degrees) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan(middle)


def _central(theta: float, degrees: int) -> float:
    """P(|T| ≤ √degrees · tan θ)."""
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    total = term = (cosine if odd else 1.0) * (degrees > 1)
    for j in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (j - 1) / j
        total += term
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
