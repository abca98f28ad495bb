"""Bit-level curves (Dettmers & Zettlemoyer 2022, arXiv 2212.09720): loss against the log of all bits, one curve a precision.

They found that no simple formula fits both size and bits well, and interpolate: a straight line between the two sizes beside, in log bits,
and the line of the outermost two beyond. A curve belongs to one series and one precision, and needs two sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from kbit.core.errors import NumericsError
from kbit.study.laws.curve import SizeCurve
from kbit.study.laws.observations import Observations
from kbit.study.laws.robust import Floats
from kbit.study.rows import Row

__all__ = ["BitLevelLaw"]

#: (log2 of total bits, log perplexity), ascending
Knots = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class BitLevelLaw:
    """See the module. `knots` are by ``series, precision``."""

    form: ClassVar[str] = "bit-level"
    formula: ClassVar[str] = "loss = line through neighbours in log(N·bpw), a curve a precision"

    knots: Mapping[str, Knots]

    @classmethod
    def fit(cls, seen: Observations, *, curve: SizeCurve, strict: bool = True, start: Self | None = None) -> Self:
        """See `kbit.study.laws.form.Law.fit`; the size curve is not used.

        Raises:
            NumericsError: no precision of any series has two sizes.
        """
        points: dict[str, list[tuple[float, float]]] = {}
        for row, loss in zip(seen.rows, seen.log_perplexity, strict=True):
            points.setdefault(_curve_of(row), []).append((_total_bits(row), float(loss)))
        knots = {name: tuple(sorted(dict(found).items())) for name, found in points.items()}
        knots = {name: found for name, found in knots.items() if len(found) > 1}
        if not knots:
            raise NumericsError("bit-level: expected a precision with at least two sizes in one series, got none")
        return cls(knots)

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See `kbit.study.laws.form.Law.predict`."""
        return np.array([self._at(self.knots.get(_curve_of(row)), _total_bits(row)) for row in rows], np.float64)

    def beyond(self, row: Row, log_params: float) -> float:
        """See `kbit.study.laws.form.Law.beyond`: outside of the curve's own knots."""
        bits, knots = _total_bits(row), self.knots.get(_curve_of(row), ())
        return float(max(knots[0][0] - bits, bits - knots[-1][0], 0.0) * np.log(2)) if knots else float("inf")

    def coefficients(self) -> dict[str, float]:
        """See `kbit.study.laws.form.Law.coefficients`."""
        return {f"loss[{name} at 2^{bits:.2f} bits]": loss for name, knots in self.knots.items() for bits, loss in knots}

    def to_json(self) -> dict[str, Any]:
        """See `kbit.study.laws.form.Law.to_json`."""
        return {"knots": {name: [list(knot) for knot in knots] for name, knots in self.knots.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """See `kbit.study.laws.form.Law.from_json`."""
        knots = {str(name): tuple((float(bits), float(loss)) for bits, loss in found) for name, found in value["knots"].items()}
        if any(len(found) < 2 for found in knots.values()):
            raise ValueError("a curve has at least two knots")
        return cls(knots)

    @staticmethod
    def _at(knots: Knots | None, bits: float) -> float:
        if knots is None:
            return float("nan")
        above = next((at for at, (known, _) in enumerate(knots) if known >= bits), len(knots) - 1)
        (left, low), (right, high) = knots[max(above - 1, 0)], knots[max(above, 1)]
        return low + (high - low) * (bits - left) / (right - left)


def _curve_of(row: Row) -> str:
    return f"{row.series}, {row.precision}"


def _total_bits(row: Row) -> float:
    return float(np.log2(row.params * row.bpw))
