"""`fit_laws`: every form on the same rows, told apart by models they have not seen.

Each model in turn is left out with all of its rows, all forms are fitted to the rest, and what they say of it is held against what was
measured. That error orders the forms, gives the intervals of predictions (`kbit.study.spread`) and names the outliers. Intervals of
coefficients are those of a bootstrap over models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kbit.core.errors import NumericsError, SchemeError
from kbit.core.registry import suggest
from kbit.study.laws import FORMS, Law
from kbit.study.laws.curve import SizeCurve
from kbit.study.laws.latency import LatencyLaw
from kbit.study.laws.observations import Observations, log_params
from kbit.study.rows import Row
from kbit.study.spread import Miss, Spread

__all__ = ["AUTO", "DRAWS", "FittedLaw", "Fitting", "chosen_forms", "error_columns", "fit_laws"]

#: of all forms, the one with the least held-out error first
AUTO = "auto"
#: bootstrap draws unless told
DRAWS = 40
#: models of one series that a law needs
_MODELS = 3
#: errors below this are alike, nats
_LEAST_ERROR = 1e-4
#: columns of a table of errors; beyond so many precisions they are by method and bits, of few bits
_MOST_COLUMNS, _MANY_PRECISIONS, _FEW_BITS = 6, 24, 4
#: a row that is missed by less is no outlier, nats
_FAR_NATS = 0.1


@dataclass(frozen=True, slots=True)
class FittedLaw:
    """A law, and what it is worth.

    Attributes:
        law: the fitted form.
        intervals: 90 % intervals of its coefficients over the bootstrap; empty without one.
        heldout_error: usual |Δ log perplexity| of encoded rows of left-out models: the geometric mean of the medians of
            precisions, so that none that nothing predicts decides alone; None where no model could be left out.
        misses: every held-out row with its error.
        spread: widths of intervals.
    """

    law: Law
    intervals: Mapping[str, tuple[float, float]]
    heldout_error: float | None
    misses: tuple[Miss, ...]
    spread: Spread


@dataclass(frozen=True, slots=True)
class Fitting:
    """All that was fitted.

    Attributes:
        laws: forms by held-out error, best first.
        refused: form → why it was not fitted.
        rows: that they were fitted to.
        latency: of the rows that tell their speed; None where they are too few.
    """

    laws: tuple[FittedLaw, ...]
    refused: Mapping[str, str]
    rows: tuple[Row, ...]
    latency: LatencyLaw | None = None

    def outliers(self) -> list[Miss]:
        """Held-out rows outside of their own 90 % interval under the best law, and far off in nats too; worst first."""
        best = self.laws[0]
        far = [miss for miss in best.misses if abs(miss.error) > max(best.spread.half_width(miss.row, miss.beyond), _FAR_NATS)]
        return sorted(far, key=lambda miss: -abs(miss.error))


def error_columns(laws: Sequence[FittedLaw]) -> tuple[list[str], Callable[[Row], str]]:
    """Columns of a table of errors: the precisions that most models have; method and bits, four and fewer, where there are many precisions.

    Returns:
        Names, and the column that a row belongs to.
    """
    rows = [miss.row for miss in laws[0].misses]
    coarse = len({row.precision for row in rows}) > _MANY_PRECISIONS
    names: dict[str, int] = {}
    for row in rows:
        if not coarse or row.bits <= _FEW_BITS:
            name = _method_and_bits(row) if coarse else row.precision
            names[name] = names.get(name, 0) + 1
    shown = sorted(names, key=lambda name: -names[name])[:_MOST_COLUMNS]
    return shown, _method_and_bits if coarse else lambda row: row.precision


def _method_and_bits(row: Row) -> str:
    return f"{row.method} {row.bits:g}"


def chosen_forms(form: str) -> tuple[str, ...]:
    """Names of the forms that a word stands for: its own, or all for ``auto``.

    Raises:
        SchemeError: no such form.
    """
    if form == AUTO:
        return tuple(FORMS)
    if form not in FORMS:
        raise SchemeError(f"unknown form {form!r}: {suggest(form, (*FORMS, AUTO))}")
    return (form,)


def fit_laws(
    rows: Sequence[Row],
    form: str = AUTO,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Fitting:
    """Fit forms to rows.

    Args:
        rows: measured ones.
        form: one, or ``auto`` for all.
        draws: of the bootstrap; 0 for no intervals of coefficients.
        seed: of the bootstrap.
        progress: called with what is going on, how much is done and how much there is.

    Raises:
        NumericsError: too few models, or fewer rows than any form has coefficients.
        SchemeError: an unknown form.
        MissingExtraError: scipy is not installed.
    """
    forms = chosen_forms(form)
    seen = Observations.of(rows)
    _check_models(rows)
    curve = SizeCurve.fit(seen)
    fitted: dict[str, Law] = {}
    refused: dict[str, str] = {}
    for name in forms:
        try:
            fitted[name] = FORMS[name].fit(seen, curve=curve)
        except NumericsError as error:
            refused[name] = str(error)
    if not fitted:
        raise NumericsError(f"{_source(rows)}: {'; '.join(refused.values())}")
    report = progress or (lambda _what, _done, _total: None)
    misses = _hold_out(rows, fitted, lambda done, total: report("models left out", done, total))
    intervals = _bootstrap(rows, fitted, curve, draws, seed, lambda done, total: report("bootstrap draws", done, total))
    laws = [_judged(law, misses[name], intervals[name]) for name, law in fitted.items()]
    laws.sort(key=lambda one: float("inf") if one.heldout_error is None else one.heldout_error)
    try:
        latency = LatencyLaw.fit(rows)
    except NumericsError as error:
        latency, refused["latency"] = None, str(error)
    return Fitting(tuple(laws), refused, tuple(rows), latency)


def _judged(law: Law, misses: tuple[Miss, ...], intervals: Mapping[str, tuple[float, float]]) -> FittedLaw:
    return FittedLaw(law, intervals, _usual_error(misses), misses, Spread.of(misses))


def _usual_error(misses: Sequence[Miss]) -> float | None:
    precisions: dict[str, list[float]] = {}
    for miss in misses:
        if not miss.row.is_original:
            precisions.setdefault(miss.row.precision, []).append(abs(miss.error))
    if not precisions:
        return None
    enough = [errors for errors in precisions.values() if len(errors) >= _MODELS] or list(precisions.values())
    return float(np.exp(np.mean([np.log(max(np.median(errors), _LEAST_ERROR)) for errors in enough])))


def _source(rows: Sequence[Row]) -> str:
    return rows[0].place.partition(": row")[0] or "rows"


def _check_models(rows: Sequence[Row]) -> None:
    models: dict[str, set[tuple[str, str, int]]] = {}
    for row in rows:
        models.setdefault(row.series, set()).add(row.model)
    most = max(models, key=lambda series: len(models[series]))
    if len(models[most]) < _MODELS:
        raise NumericsError(
            f"{_source(rows)}: params: a size curve has {_MODELS} coefficients: expected at least {_MODELS} models of one family, dataset "
            f"and context, got {len(models[most])} ({most})"
        )


def _hold_out(rows: Sequence[Row], fitted: Mapping[str, Law], report: Callable[[int, int], None]) -> dict[str, tuple[Miss, ...]]:
    """Errors of each form on each model, fitted without it; a model whose series has no other says nothing."""
    models = list(dict.fromkeys(row.model for row in rows))
    found: dict[str, list[Miss]] = {name: [] for name in fitted}
    for done, model in enumerate(models, 1):
        rest = [row for row in rows if row.model != model]
        known = {row.series for row in rest}
        left = [row for row in rows if row.model == model and row.series in known]
        if left:
            seen = Observations.of(rest)
            curve = SizeCurve.fit(seen)
            for name, law in fitted.items():
                found[name] += _misses(type(law), seen, curve, left)
        report(done, len(models))
    return {name: tuple(misses) for name, misses in found.items()}


def _misses(form: type[Law], seen: Observations, curve: SizeCurve, left: Sequence[Row]) -> Iterator[Miss]:
    try:
        law = form.fit(seen, curve=curve, strict=False)
    except NumericsError:  # without this model there is nothing that the form speaks of
        return
    for row, value, size in zip(left, law.predict(left), log_params(left), strict=True):
        if np.isfinite(value):
            yield Miss(row, float(value - np.log(row.perplexity or 1.0)), law.beyond(row, float(size)))


def _bootstrap(
    rows: Sequence[Row], fitted: Mapping[str, Law], curve: SizeCurve, draws: int, seed: int, report: Callable[[int, int], None]
) -> dict[str, dict[str, tuple[float, float]]]:
    """5th and 95th percentile of every coefficient over draws of models with replacement; one that few draws have is left out."""
    models: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        models.setdefault(row.model, []).append(row)
    names, random = list(models), np.random.default_rng(seed)
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in fitted}
    for done in range(draws):
        drawn = [row for at in random.integers(0, len(names), len(names)) for row in models[names[at]]]
        seen = Observations.of(drawn)
        again = SizeCurve.fit(seen, start=curve)
        for name, law in fitted.items():
            try:
                coefficients = type(law).fit(seen, curve=again, strict=False, start=law).coefficients()
            except NumericsError:
                continue
            for key, value in coefficients.items():
                samples[name].setdefault(key, []).append(value)
        report(done + 1, draws)
    least = max(draws // 3, 2)
    known = {name: law.coefficients().keys() for name, law in fitted.items()}
    return {
        name: {
            key: (float(np.percentile(values, 5)), float(np.percentile(values, 95)))
            for key, values in found.items()
            if len(values) >= least and key in known[name]
        }
        for name, found in samples.items()
    }
