"""What encoding adds to the loss, as a product of powers: linear in its coefficients once logarithms are taken.

    log(loss − loss of the original) = Σ coefficient · feature

A form says which features a row has. Those of a kind have one prior; *structural* ones (a level of a method, the exponent of size) must be
known for a row to be predicted, the others are how far a family or a precision leaves the rule, and are 0 for one never seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kbit.core.errors import NumericsError
from kbit.study.laws.observations import LEAST_DAMAGE, Observations
from kbit.study.laws.robust import Floats, solve
from kbit.study.rows import Row

__all__ = ["Feature", "Features", "Prior", "fit_damage", "predict_damage"]

#: log damage that counts as a usual residual, and its bounds once a precision has shown its own
_SCALE, _LEAST_SCALE, _MOST_SCALE = 0.3, 0.1, 3.0
#: rows of a precision that its own scale is trusted like the common one at
_TRUST = 4
#: nats of noise in a damage
_NOISE = 0.005


class Prior(NamedTuple):
    """What is known of a coefficient before rows are seen, and whether a row needs it."""

    mean: float
    deviation: float
    structural: bool = False


class Feature(NamedTuple):
    """One term: `kind` has the prior, `name` the coefficient."""

    kind: str
    name: str
    value: float


#: the terms of a row; None for a row that the form says nothing of
Features = Callable[[Row], Sequence[Feature] | None]


@dataclass(frozen=True, slots=True)
class _Design:
    names: tuple[str, ...]
    matrix: Floats
    mean: Floats
    deviation: Floats


def fit_damage(
    seen: Observations,
    features: Features,
    priors: Mapping[str, Prior],
    form: str,
    *,
    strict: bool = True,
    start: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Coefficients by name.

    Args:
        seen: the rows.
        features: the terms of a row.
        priors: by kind of term.
        form: its name, for messages.
        strict: refuse fewer rows than structural coefficients.
        start: coefficients of nearly the same rows.

    Raises:
        NumericsError: no row that the form speaks of, or fewer than it has coefficients.
    """
    used = [(at, terms) for at in seen.encoded if (terms := features(seen.rows[at])) is not None]
    structural = {term.name for _, terms in used for term in terms if priors[term.kind].structural}
    if not used or (strict and len(used) < len(structural)):
        raise NumericsError(
            f"{form}: expected at least as many encoded rows as coefficients ({max(len(structural), 1)}), got {len(used)} that it speaks of"
        )
    design = _design([terms for _, terms in used], priors)
    loss = np.maximum(seen.damage[[at for at, _ in used]], LEAST_DAMAGE)
    precisions = np.array([seen.rows[at].precision for at, _ in used])
    noise = _NOISE / loss
    scale = np.full(len(used), _SCALE)
    found = (
        design.mean if start is None else np.array([start.get(name, mean) for name, mean in zip(design.names, design.mean, strict=True)])
    )
    for _ in range(2):
        found = solve(design.matrix, np.log(loss), np.hypot(scale, noise), design.mean, design.deviation, found)
        scale = _scales(np.log(loss) - design.matrix @ found, precisions)
    return {name: float(value) for name, value in zip(design.names, found, strict=True)}


def predict_damage(rows: Sequence[Row], features: Features, priors: Mapping[str, Prior], coefficients: Mapping[str, float]) -> Floats:
    """Nats above the original, [rows]; 0 for originals, NaN where a structural coefficient is not known."""
    out = np.full(len(rows), np.nan)
    for at, row in enumerate(rows):
        if row.is_original:
            out[at] = 0.0
            continue
        terms = features(row)
        if terms is not None and all(term.name in coefficients or not priors[term.kind].structural for term in terms):
            out[at] = np.exp(min(sum(coefficients.get(term.name, 0.0) * term.value for term in terms), 50.0))
    return out


def _design(rows: Sequence[Sequence[Feature]], priors: Mapping[str, Prior]) -> _Design:
    kinds = {term.name: term.kind for terms in rows for term in terms}
    names = tuple(kinds)
    places = {name: at for at, name in enumerate(names)}
    matrix = np.zeros((len(rows), len(names)))
    for at, terms in enumerate(rows):
        for term in terms:
            matrix[at, places[term.name]] += term.value
    mean, deviation = (np.array([getattr(priors[kinds[name]], field) for name in names]) for field in ("mean", "deviation"))
    return _Design(names, matrix, mean, deviation)


def _scales(residuals: Floats, precisions: Floats) -> Floats:
    """Usual residual of each row's precision: its median, shrunk to the common one where there are few rows."""
    out = np.empty_like(residuals)
    for precision in np.unique(precisions):
        at = precisions == precision
        own = float(np.clip(1.48 * np.median(np.abs(residuals[at])), _LEAST_SCALE, _MOST_SCALE))
        count = int(at.sum())
        out[at] = np.exp((count * np.log(own) + _TRUST * np.log(_SCALE)) / (count + _TRUST))
    return out
