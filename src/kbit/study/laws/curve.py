"""How the original models of a series improve with size:

    perplexity(N) = E + A · N^−α          N: parameters in billions

E and A belong to the series. α is one for all, and each series may leave it a little, so that a series of two or three models borrows it
from the others. (Kaplan et al. 2020 and Hoffmann et al. 2022 write the loss that way; the perplexity fitted the published tables better.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from kbit.study.laws.observations import Observations
from kbit.study.laws.robust import Floats, minimize

__all__ = ["SizeCurve"]

#: residual of log perplexity that counts as usual
_SCALE = 0.02
#: how far a series' exponent lies from the common one, and the common one from its prior
_OWN_EXPONENT, _EXPONENT, _EXPONENT_DEVIATION = 0.05, 0.35, 0.3
#: the floor E lies this far below the best perplexity seen, in nats, give or take
_BELOW, _BELOW_DEVIATION = 0.4, 1.0
_STARTS = (0.15, 0.3, 0.6)


@dataclass(frozen=True, slots=True)
class SizeCurve:
    """Fitted curves.

    Attributes:
        series: names, in the order of the arrays.
        log_floor: log E of each.
        log_scale: log A of each.
        exponent: α of each.
        common: the exponent that all share.
        range_log_params: smallest and largest log N (in billions) seen of each, [series, 2].
    """

    series: tuple[str, ...]
    log_floor: Floats
    log_scale: Floats
    exponent: Floats
    common: float
    range_log_params: Floats

    @classmethod
    def fit(cls, seen: Observations, start: "SizeCurve | None" = None) -> Self:
        """Curves through the originals of all series; `start` is a curve of nearly the same rows.

        Raises:
            MissingExtraError: scipy is not installed.
        """
        at = np.flatnonzero(seen.anchor)
        x, y, index = seen.log_params[at], seen.log_perplexity[at], seen.series_index[at]
        count = len(seen.series)
        best = np.array([y[index == i].min() for i in range(count)])
        middle = np.array([x[index == i].mean() for i in range(count)])
        problem = _Problem(x, y, index, count, best, middle)
        low = np.concatenate([best - 8.0, np.full(count, -12.0), [0.01], np.full(count, -0.5)])
        high = np.concatenate([best + 0.0, np.full(count, 12.0), [2.0], np.full(count, 0.5)])
        found = minimize(problem.residuals, problem.jacobian, problem.starts(start, seen.series), (low, high))
        floor, scale, own = found[:count], found[count : 2 * count], found[2 * count + 1 :]
        common = float(found[2 * count])
        exponent = np.maximum(common + own, 0.01)
        ranges = np.array([[x[index == i].min(), x[index == i].max()] for i in range(count)])
        return cls(seen.series, floor, scale + exponent * middle, exponent, common, ranges)

    def at(self, series: Sequence[str], log_params: Floats) -> Floats:
        """Log perplexity of originals of `series` with so many parameters (log of billions); NaN for an unknown series."""
        places = np.array([self.series.index(name) if name in self.series else -1 for name in series], np.int64)
        known = np.maximum(places, 0)
        with np.errstate(invalid="ignore"):  # NaN in, NaN out
            value: Floats = np.logaddexp(self.log_floor[known], self.log_scale[known] - self.exponent[known] * log_params)
        return np.where(places >= 0, value, np.nan)

    def beyond(self, series: str, log_params: float) -> float:
        """How far a size lies outside of those that the series has shown, in log size; 0 inside, infinite for an unknown series."""
        if series not in self.series:
            return float("inf")
        low, high = self.range_log_params[self.series.index(series)]
        return float(max(low - log_params, log_params - high, 0.0)) if not low - 1e-9 <= log_params <= high + 1e-9 else 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "exponent": self.common,
            "series": {
                name: {
                    "log_floor": float(self.log_floor[i]),
                    "log_scale": float(self.log_scale[i]),
                    "exponent": float(self.exponent[i]),
                    "log_params": [float(value) for value in self.range_log_params[i]],
                }
                for i, name in enumerate(self.series)
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Curves from `to_json`'s object (`KeyError`, `TypeError` or `ValueError` where it is not)."""
        series = value["series"]
        floor, scale, own = (np.array([float(entry[key]) for entry in series.values()]) for key in ("log_floor", "log_scale", "exponent"))
        ranges = np.array([[float(bound) for bound in entry["log_params"]] for entry in series.values()]).reshape(-1, 2)
        return cls(tuple(series), floor, scale, own, float(value["exponent"]), ranges)


@dataclass(frozen=True, slots=True)
class _Problem:
    """Residuals of all curves at once: coefficients are floors, scales at each series' middle size, the exponent, own exponents."""

    x: Floats
    y: Floats
    index: Any
    count: int
    best: Floats
    middle: Floats

    def residuals(self, c: Floats) -> Floats:
        floor, rest, _ = self._terms(c)
        count = self.count
        return np.concatenate(
            [
                (np.logaddexp(floor, rest) - self.y) / _SCALE,
                (c[:count] - self.best + _BELOW) / _BELOW_DEVIATION,
                [(c[2 * count] - _EXPONENT) / _EXPONENT_DEVIATION],
                c[2 * count + 1 :] / _OWN_EXPONENT,
            ]
        )

    def jacobian(self, c: Floats) -> Floats:
        floor, rest, distance = self._terms(c)
        share = 1 / (1 + np.exp(floor - rest))  # of the power law in the perplexity
        count, rows = self.count, np.arange(len(self.x))
        out = np.zeros((len(self.x) + 2 * count + 1, 3 * count + 1))
        out[rows, self.index] = (1 - share) / _SCALE
        out[rows, count + self.index] = share / _SCALE
        out[rows, 2 * count] = out[rows, 2 * count + 1 + self.index] = -share * distance / _SCALE
        below = len(self.x) + np.arange(count)
        out[below, np.arange(count)] = 1 / _BELOW_DEVIATION
        out[len(self.x) + count, 2 * count] = 1 / _EXPONENT_DEVIATION
        out[below + count + 1, 2 * count + 1 + np.arange(count)] = 1 / _OWN_EXPONENT
        return out

    def starts(self, start: SizeCurve | None, series: tuple[str, ...]) -> list[Floats]:
        if start is not None and set(series) <= set(start.series):
            at = [start.series.index(name) for name in series]
            scale = start.log_scale[at] - start.exponent[at] * self.middle
            return [np.concatenate([start.log_floor[at], scale, [start.common], start.exponent[at] - start.common])]
        zeros = np.zeros(self.count)
        return [np.concatenate([self.best - _BELOW, self.best - 0.3, [exponent], zeros]) for exponent in _STARTS]

    def _terms(self, c: Floats) -> tuple[Floats, Floats, Floats]:
        count, index = self.count, self.index
        distance = self.x - self.middle[index]
        return c[index], c[count + index] - (c[2 * count] + c[2 * count + 1 + index]) * distance, distance
