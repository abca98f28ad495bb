"""`Law`: one form, fitted. The size curve of the originals below, what encoding adds on top."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from kbit.study.laws.curve import SizeCurve
from kbit.study.laws.damage import Features, Prior, fit_damage, predict_damage
from kbit.study.laws.observations import Observations, log_params
from kbit.study.laws.robust import Floats
from kbit.study.rows import Row

__all__ = ["DamageForm", "Law", "PowerProduct", "curve_coefficients"]


class Law(Protocol):
    """A form with its coefficients."""

    form: ClassVar[str]
    formula: ClassVar[str]

    @classmethod
    def fit(cls, seen: Observations, *, curve: SizeCurve, strict: bool = True, start: Self | None = None) -> Self:
        """Fit to rows over a curve that is fitted already; `strict` refuses fewer rows than coefficients; `start` is nearby."""

    def predict(self, rows: Sequence[Row]) -> Floats:
        """Log perplexity of each row; NaN where the form says nothing."""

    def beyond(self, row: Row, log_params: float) -> float:
        """How far a row's size lies outside of those seen of its series, in log size; 0 inside."""

    def coefficients(self) -> dict[str, float]:
        """All numbers of the law by name."""

    def to_json(self) -> dict[str, Any]:
        """JSON object that `from_json` reads."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The law of an object."""


@dataclass(frozen=True, slots=True)
class DamageForm:
    """A form whose damage is a product of powers: name, formula, terms and their priors."""

    form: str
    formula: str
    features: Features
    priors: Mapping[str, Prior]


@dataclass(frozen=True, slots=True)
class PowerProduct:
    """Base of the laws of a `DamageForm`."""

    description: ClassVar[DamageForm]
    form: ClassVar[str]
    formula: ClassVar[str]

    curve: SizeCurve
    damage: Mapping[str, float]

    @classmethod
    def fit(cls, seen: Observations, *, curve: SizeCurve, strict: bool = True, start: Self | None = None) -> Self:
        """See `Law.fit`.

        Raises:
            NumericsError: fewer rows than coefficients.
        """
        about = cls.description
        known = None if start is None else start.damage
        return cls(curve, fit_damage(seen, about.features, about.priors, about.form, strict=strict, start=known))

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See `Law.predict`."""
        base = self.curve.at([row.series for row in rows], log_params(rows))
        return base + self.damages(rows)

    def damages(self, rows: Sequence[Row]) -> Floats:
        """Nats above the original of each row, whatever its series; NaN where the form says nothing."""
        return predict_damage(rows, self.description.features, self.description.priors, self.damage)

    def beyond(self, row: Row, log_params: float) -> float:
        """See `Law.beyond`."""
        return self.curve.beyond(row.series, log_params)

    def coefficients(self) -> dict[str, float]:
        """See `Law.coefficients`."""
        return curve_coefficients(self.curve) | dict(self.damage)

    def to_json(self) -> dict[str, Any]:
        """See `Law.to_json`."""
        return {"curve": self.curve.to_json(), "damage": dict(self.damage)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """See `Law.from_json`."""
        return cls(SizeCurve.from_json(value["curve"]), {str(name): float(number) for name, number in value["damage"].items()})


def curve_coefficients(curve: SizeCurve) -> dict[str, float]:
    """Numbers of a size curve by name."""
    named: dict[str, float] = {"α": curve.common}
    columns: tuple[tuple[str, Callable[[int], float]], ...] = (
        ("log E", lambda i: float(curve.log_floor[i])),
        ("log A", lambda i: float(curve.log_scale[i])),
        ("α", lambda i: float(curve.exponent[i])),
    )
    for at, series in enumerate(curve.series):
        named |= {f"{name}[{series}]": value(at) for name, value in columns}
    return named
