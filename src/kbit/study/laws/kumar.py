"""Encoding as fewer parameters (Kumar et al. 2024, arXiv 2411.04330):

    loss(N, P) = loss of the original of N_eff parameters        N_eff = N · (1 − e^(−P/γ))

γ belongs to a method, and a family may leave it a little. P is the bits a weight that are stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from kbit.core.errors import NumericsError
from kbit.study.laws.curve import SizeCurve
from kbit.study.laws.form import curve_coefficients
from kbit.study.laws.observations import Observations, log_params
from kbit.study.laws.robust import Floats, minimize
from kbit.study.rows import Row

__all__ = ["KumarLaw"]

#: residual of log perplexity that counts as usual; prior of log γ, and of what a family leaves it by
_SCALE, _DEVIATION, _FAMILY = 0.1, 1.0, 0.2
#: γ in bits
_LEAST, _MOST, _STARTS = 0.02, 50.0, (0.7, 2.0)


@dataclass(frozen=True, slots=True)
class KumarLaw:
    """See the module. `log_gamma` is by method, `family` by ``method, family``."""

    form: ClassVar[str] = "kumar"
    formula: ClassVar[str] = "loss = loss₁₆(N·(1 − e^(−P/γ)))"

    curve: SizeCurve
    log_gamma: Mapping[str, float]
    family: Mapping[str, float]

    @classmethod
    def fit(cls, seen: Observations, *, curve: SizeCurve, strict: bool = True, start: Self | None = None) -> Self:
        """See `kbit.study.laws.form.Law.fit`.

        Raises:
            NumericsError: fewer rows than methods. MissingExtraError: scipy is not installed.
        """
        rows = [seen.rows[at] for at in seen.encoded]
        methods = tuple(dict.fromkeys(_method(row) for row in rows))
        families = tuple(dict.fromkeys(_family(row) for row in rows))
        if not rows or (strict and len(rows) < len(methods)):
            raise NumericsError(f"kumar: expected at least as many encoded rows as coefficients ({max(len(methods), 1)}), got {len(rows)}")
        problem = _Problem(
            curve,
            tuple(row.series for row in rows),
            log_params(rows),
            np.array([row.bpw for row in rows]),
            np.asarray(seen.log_perplexity[seen.encoded]),
            np.array([methods.index(_method(row)) for row in rows]),
            np.array([families.index(_family(row)) for row in rows]),
            len(methods),
            len(families),
        )
        low = np.full(problem.size, np.log(_LEAST))
        high = np.full(problem.size, np.log(_MOST))
        low[len(methods) :], high[len(methods) :] = -1.0, 1.0
        starts = [np.concatenate([np.full(len(methods), np.log(gamma)), np.zeros(len(families))]) for gamma in _STARTS]
        if start is not None:
            known = [start.log_gamma.get(method, 0.0) for method in methods]
            starts = [np.array([*known, *(start.family.get(family, 0.0) for family in families)])]
        found = minimize(problem.residuals, problem.jacobian, starts, (low, high))
        gamma = dict(zip(methods, map(float, found[: len(methods)]), strict=True))
        return cls(curve, gamma, dict(zip(families, map(float, found[len(methods) :]), strict=True)))

    def predict(self, rows: Sequence[Row]) -> Floats:
        """See `kbit.study.laws.form.Law.predict`."""
        unknown = float("nan")
        log_gamma = np.array([self.log_gamma.get(_method(row), unknown) + self.family.get(_family(row), 0.0) for row in rows])
        lost = _lost(np.array([row.bpw for row in rows]), log_gamma)
        return self.curve.at([row.series for row in rows], log_params(rows) + np.where([row.is_original for row in rows], 0.0, lost))

    def beyond(self, row: Row, log_params: float) -> float:
        """See `kbit.study.laws.form.Law.beyond`."""
        return self.curve.beyond(row.series, log_params)

    def coefficients(self) -> dict[str, float]:
        """See `kbit.study.laws.form.Law.coefficients`."""
        named = {f"log γ[{method}]": value for method, value in self.log_gamma.items()}
        return curve_coefficients(self.curve) | named | {f"c[{family}]": value for family, value in self.family.items()}

    def to_json(self) -> dict[str, Any]:
        """See `kbit.study.laws.form.Law.to_json`."""
        return {"curve": self.curve.to_json(), "log_gamma": dict(self.log_gamma), "family": dict(self.family)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """See `kbit.study.laws.form.Law.from_json`."""
        gamma, family = ({str(name): float(number) for name, number in value[key].items()} for key in ("log_gamma", "family"))
        return cls(SizeCurve.from_json(value["curve"]), gamma, family)


def _method(row: Row) -> str:
    return f"{row.method} {row.extra['grid']}" if "grid" in row.extra else row.method


def _family(row: Row) -> str:
    return f"{_method(row)}, {row.family}"


def _lost(bits: Floats, log_gamma: Floats) -> Floats:
    """log(1 − e^(−P/γ))."""
    out: Floats = np.log(-np.expm1(-bits / np.exp(log_gamma)))
    return out


@dataclass(frozen=True, slots=True)
class _Problem:
    curve: SizeCurve
    series: tuple[str, ...]
    log_params: Floats
    bits: Floats
    loss: Floats
    method: Any
    family: Any
    methods: int
    families: int

    @property
    def size(self) -> int:
        return self.methods + self.families

    def residuals(self, c: Floats) -> Floats:
        fitted = self.curve.at(self.series, self.log_params + _lost(self.bits, self._log_gamma(c)))
        return np.concatenate([(fitted - self.loss) / _SCALE, c[: self.methods] / _DEVIATION, c[self.methods :] / _FAMILY])

    def jacobian(self, c: Floats) -> Floats:
        """By central differences along log γ: a residual depends on one method and one family."""
        step = 1e-5
        log_gamma = self._log_gamma(c)
        ahead, behind = (self.curve.at(self.series, self.log_params + _lost(self.bits, log_gamma + side)) for side in (step, -step))
        slope = (ahead - behind) / (2 * step) / _SCALE
        rows = np.arange(len(self.loss))
        out = np.zeros((len(self.loss) + self.size, self.size))
        out[rows, self.method] = slope
        out[rows, self.methods + self.family] = slope
        prior = np.concatenate([np.full(self.methods, 1 / _DEVIATION), np.full(self.families, 1 / _FAMILY)])
        out[len(self.loss) + np.arange(self.size), np.arange(self.size)] = prior
        return out

    def _log_gamma(self, c: Floats) -> Floats:
        out: Floats = c[self.method] + c[self.methods + self.family]
        return out
