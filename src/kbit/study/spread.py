"""How far predictions miss: intervals from the errors on models that were left out (conformal, Vovk et al. 2005).

A precision has a usual error: the median of what was missed. Errors over it are one pool for sizes inside the range that was seen and one
for those outside, and the share of the pool that an interval shall cover gives its width; beyond the range it grows with the distance.

Rows of one model miss together, so few models are few errors, however many rows they have. The width is never less than what Student's t
gives for models: their usual misses (the median of a model's), root mean square, with as many degrees of freedom as there are models.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from kbit.core.errors import MissingExtraError
from kbit.study.rows import Row

__all__ = ["COVERAGE", "Miss", "Spread"]

#: family, name and parameters
Model = tuple[str, str, int]

#: of the intervals that are quoted
COVERAGE = 0.9
#: errors that a precision needs for a usual error of its own
_ENOUGH = 4
#: no usual error is below this, in nats
_LEAST = 0.002
#: stands for an error where nothing was held out, in nats: half of an original's, all of an encoded one's
_UNKNOWN = 0.25


@dataclass(frozen=True, slots=True)
class Miss:
    """One held-out row: what was predicted less what was measured, nats; `beyond`: how far outside of the sizes seen, in log size."""

    row: Row
    error: float
    beyond: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Widths of intervals.

    Attributes:
        usual: usual error by class: ``none``, ``method bits``, ``gptq bits`` for all that compensate, and ``""`` for all rows.
        inside, outside: half of an interval in usual errors, for sizes inside and outside.
        distance: log size beyond the range that `outside` stands for.
    """

    usual: Mapping[str, float]
    inside: float
    outside: float
    distance: float

    @classmethod
    def of(cls, misses: Sequence[Miss], coverage: float = COVERAGE) -> Self:
        """Widths from held-out errors; wide ones where there are too few.

        Raises:
            MissingExtraError: scipy is not installed.
        """
        groups: dict[str, tuple[list[float], list[float]]] = {}
        for miss in misses:
            for name in dict.fromkeys((*_classes(miss.row), "")):
                groups.setdefault(name, ([], []))[miss.beyond > 0].append(abs(miss.error))
        usual = {name: error for name, (near, far) in groups.items() if (error := _usual(near, far)) is not None}
        usual.setdefault("", _UNKNOWN)
        made = cls(usual, 1.0, 1.0, 1.0)
        pools: tuple[dict[Model, list[float]], dict[Model, list[float]]] = ({}, {})
        for miss in misses:
            pools[miss.beyond > 0].setdefault(miss.row.model, []).append(abs(miss.error) / made.usual_of(miss.row))
        beyond = [miss.beyond for miss in misses if miss.beyond > 0]
        width = _width(pools[False], coverage) or 4.0
        far = _width(pools[True], coverage) or 2 * width
        return cls(usual, width, max(far, width), float(np.median(beyond)) if beyond else 1.0)

    def usual_of(self, row: Row) -> float:
        """Usual error of a row's precision, or of the next class that has shown one; never less than that of originals."""
        least = self.usual.get("none", 0.0)
        if row.is_original:
            return self.usual.get("none", self.usual[""])
        own = next((self.usual[name] for name in _classes(row) if name in self.usual), None)
        if own is None:  # each bit more makes a quarter of the error, as it does of the squared error of weights
            own = next((self.usual[name] * 4.0 ** (bits - row.bits) for bits, name in _coarser(row, self.usual)), self.usual[""])
        return max(own, least)

    def half_width(self, row: Row, beyond: float) -> float:
        """Half of the interval of log perplexity of a row that lies `beyond` in log size outside of what was seen."""
        if beyond <= 0:
            return self.inside * self.usual_of(row)
        return self.outside * max(1.0, beyond / self.distance) * self.usual_of(row)

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {"usual": dict(self.usual), "inside": self.inside, "outside": self.outside, "distance": self.distance}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Widths of an object (`KeyError`, `TypeError` or `ValueError` where it is none)."""
        usual = {str(name): float(number) for name, number in value["usual"].items()}
        numbers = [float(value[key]) for key in ("inside", "outside", "distance")]
        if "" not in usual or min(*usual.values(), *numbers) <= 0:
            raise ValueError("widths are positive")
        return cls(usual, *numbers)


def _classes(row: Row) -> tuple[str, ...]:
    if row.is_original:
        return ("none",)
    compensated = (f"gptq {row.bits:g}",) if "gptq" in row.method.split("+") else ()
    return f"{row.method} {row.bits:g}", *compensated


def _coarser(row: Row, known: Iterable[str]) -> list[tuple[float, str]]:
    """Classes of the row's method with fewer bits, and those bits, the nearest first."""
    methods = {name.rpartition(" ")[0] for name in _classes(row) if " " in name}
    found = [(float(name.rpartition(" ")[2]), name) for name in known if name.rpartition(" ")[0] in methods and " " in name]
    return [(bits, name) for bits, name in sorted(found, reverse=True) if bits < row.bits]


def _usual(near: Sequence[float], far: Sequence[float]) -> float | None:
    """The median inside of the range; where that is of too few, of all, what lies outside counting half."""
    found = near if len(near) >= _ENOUGH else [*near, *(error / 2 for error in far)]
    return max(float(np.median(found)), _LEAST) if len(found) >= _ENOUGH else None


def _width(models: Mapping[Model, Sequence[float]], coverage: float) -> float | None:
    """What covers a share of a pool of errors, and of the models that they are of; None where the pool is too small.

    The share of the errors has the correction for their number that makes it hold for one more.
    """
    ratios = np.array([ratio for errors in models.values() for ratio in errors])
    if ratios.size < _ENOUGH:
        return None
    try:
        from scipy.special import stdtrit
    except ImportError:
        raise MissingExtraError("scipy", "study") from None
    share = float(np.quantile(ratios, min(1.0, coverage * (1 + 1 / ratios.size))))
    together = math.sqrt(np.mean([np.median(errors) ** 2 for errors in models.values()]))
    return max(share, float(stdtrit(len(models), (1 + coverage) / 2)) * together)
