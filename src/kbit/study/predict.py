"""Predictions with intervals, for rows of any kind.

The best law answers where it speaks of a row, else the one of the others that errs least on rows like it. Where none does, since the
family or the method was never seen, what is said of each that was seen stands in: their median, and an interval for how far apart they
are. Such a prediction is wide, and says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from kbit.core.errors import NumericsError
from kbit.study.book import BookEntry, LawBook
from kbit.study.laws.observations import log_params
from kbit.study.rows import Row
from kbit.study.schemes import scheme_row

__all__ = ["Prediction", "expected_band", "predict_rows"]

#: deviations between stand-ins that an interval reaches: the 90 % of Student's t for the few that there are
_REACH = 2.4
#: stand-ins tried at most
_MOST = 64
_HIGHEST = 300.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of a row.

    Attributes:
        perplexity, low, high: the median and the ends of its 90 % interval.
        form: of the law that answered.
        note: why the interval is wide, or empty.
    """

    perplexity: float
    low: float
    high: float
    form: str
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {"perplexity": self.perplexity, "low": self.low, "high": self.high, "form": self.form, "note": self.note}


def predict_rows(book: LawBook, rows: Sequence[Row]) -> list[Prediction]:
    """A prediction for each row, in their order; measured perplexities among them are not looked at.

    Raises:
        NumericsError: a row that no law says anything of, by its place.
    """
    best = _by(book.entries[0], rows)
    others = [(entry, _by(entry, rows)) for entry in book.entries[1:]] if None in best else []
    out = []
    for at, row in enumerate(rows):
        said = [(entry.spread.usual_of(row), found[at]) for entry, found in others if found[at] is not None]
        found = best[at] or min(said, key=lambda pair: pair[0], default=(0.0, None))[1]
        out.append(_stand_in(book, row) if found is None else found)
    return out


def expected_band(book: LawBook, facts: Mapping[str, Any], scheme: str, perplexity: float) -> tuple[float, float]:
    """Perplexities that a sound encoding should end in, from what the original measures: an alarm for what lies far outside.

    Args:
        book: the laws.
        facts: of the model and the text: ``family``, ``params``, ``dataset``, ``context``, and ``bpw`` of the encoded model.
        scheme: text of the scheme.
        perplexity: of the original on that text.

    Returns:
        Ends of the 90 % interval. The lower one allows for noise alone: an encoding that loses nothing is no alarm.

    Raises:
        NumericsError: facts that are missing or no numbers, or a scheme that no law says anything of.
    """
    row = scheme_row(facts, scheme, book.methods)
    original = replace(row, method="none", bits=16, group_size=-1, bpw=16.0, extra={})
    shapes = [replace(original, family=family, dataset=dataset, context=context) for family, dataset, context in _series(book)]
    known = [one for one in shapes if one.series == row.series] or shapes
    damages = []
    for one in known:
        pair = predict_rows(book, [one, replace(row, family=one.family, dataset=one.dataset, context=one.context)])
        damages.append((np.log(pair[1].perplexity) - np.log(pair[0].perplexity), np.log(pair[1].high) - np.log(pair[1].perplexity)))
    most = max(max(damage, 0.0) + width for damage, width in damages)
    return perplexity * float(np.exp(-0.02)), perplexity * float(np.exp(min(most, _HIGHEST)))


def _by(entry: BookEntry, rows: Sequence[Row]) -> list[Prediction | None]:
    values = entry.law.predict(rows)
    return [
        _interval(entry, row, float(value), float(size)) if np.isfinite(value) else None
        for row, value, size in zip(rows, values, log_params(rows), strict=True)
    ]


def _interval(entry: BookEntry, row: Row, value: float, size: float) -> Prediction:
    beyond = entry.law.beyond(row, size)
    half = entry.spread.half_width(row, beyond)
    note = f"{row.params:.3g} parameters lie outside of the sizes seen" if beyond > 0 else ""
    return Prediction(_exp(value), _exp(max(value - half, 0.0)), _exp(value + half), entry.law.form, note)


def _series(book: LawBook) -> list[tuple[str, str, int]]:
    parts = [series.rsplit("/", 2) for series in book.series]
    return [(family, dataset, int(context)) for family, dataset, context in parts]


def _stand_in(book: LawBook, row: Row) -> Prediction:
    """The median of what is said of known families, and if need be of known methods, in place of the row's own."""
    known = row.series in book.series
    series = [(row.family, row.dataset, row.context)] if known else _series(book)
    for methods in ((row.method,), book.methods):
        rows = [
            replace(row, family=family, dataset=dataset, context=context, method=method)
            for (family, dataset, context), method in list(product(series, methods))[:_MOST]
        ]
        for entry in book.entries:
            found = [one for one in _by(entry, rows) if one is not None]
            if found:
                return _around(found, row, entry.law.form, known=known, own_method=methods == (row.method,))
    raise NumericsError(f"{row.place or 'row'}: {row.precision}: no law says anything of it; methods seen: {', '.join(book.methods)}")


def _around(found: Sequence[Prediction], row: Row, form: str, *, known: bool, own_method: bool) -> Prediction:
    values = np.log([one.perplexity for one in found])
    own = float(np.median([np.log(one.high / one.perplexity) for one in found]))
    between = float(np.std(values, ddof=1)) * _REACH if len(found) > 1 else own
    middle, half = float(np.median(values)), float(np.hypot(own, between))
    unseen = [] if known else [f"series {row.series!r}"]
    unseen += [] if own_method else [f"method {row.method!r}"]
    note = f"{' and '.join(unseen) or row.precision} was never seen: {len(found)} others stand in"
    return Prediction(_exp(middle), _exp(max(middle - half, 0.0)), _exp(middle + half), form, note)


def _exp(value: float) -> float:
    return float(np.exp(np.clip(value, -_HIGHEST, _HIGHEST)))
