"""Charts of a study: each a panel of `kbit.charts.svg` from rows of one series, or from a law."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from kbit.charts.svg import Panel, Point, Series
from kbit.core.sizes import bytes_text
from kbit.study.book import LawBook
from kbit.study.fitting import FittedLaw
from kbit.study.optimum import optima
from kbit.study.predict import predict_rows
from kbit.study.report.tables import model_name
from kbit.study.rows import Row, weight_counts

__all__ = ["bit_levels", "data_types", "group_sizes", "law_fit", "optimum_bits", "pareto_bytes", "pareto_time", "residuals"]

T = TypeVar("T")
K = TypeVar("K", str, float, int)

_MOST = 5
_STEPS = 48
#: perplexities beyond this multiple of the best are off the chart, which would else show little but them
_CEILING = 6.0
#: bands that span a larger factor would cover the others
_WIDEST = 3.0


def bit_levels(rows: Sequence[Row], series: str, method: str) -> Panel | None:
    """Perplexity against all bits of the encoded weights, a curve for each k of a method and one for the originals."""
    counts = weight_counts(row for row in rows if row.series == series)
    chosen = [row for row in rows if row.series == series and (row.is_original or row.method == method)]
    curves = [
        Series(
            "16 bits" if bits >= 16 else f"{bits:g} bits",
            tuple(Point(counts[row.model] * row.bpw, _perplexity(row), _tooltip(row)) for row in _best_by_size(found)),
        )
        for bits, found in _by(chosen, lambda row: min(row.bits, 16.0))
    ]
    curves = [curve for curve in curves if len(curve.points) > 1]
    if len(curves) < 2:
        return None
    curves = [*curves[:-1][: _MOST - 1], curves[-1]]  # few bits are what there is to choose from
    return Panel(
        f"{_name(series)}: {method}",
        "all bits of the encoded weights",
        "perplexity",
        tuple(curves),
        log_x=True,
        legend=False,
        ceiling=_ceiling(curves),
    )


def pareto_bytes(rows: Sequence[Row], series: str) -> Panel | None:
    """Perplexity against bytes of every row, and the line of those that no other beats."""
    points = [(_bytes(row), row) for row in rows if row.series == series]
    return _frontier(points, f"{_name(series)}: loss and bytes", "bytes of the weights", bytes_text)


def pareto_time(rows: Sequence[Row], series: str) -> Panel | None:
    """Perplexity against the time of a token, where rows tell their speed."""
    points = [(1000 / speed, row) for row in rows if row.series == series and (speed := row.number("decode_tokens_per_s"))]
    return _frontier(points, f"{_name(series)}: loss and time", "milliseconds a token", lambda value: f"{value:.3g} ms")


def optimum_bits(book: LawBook, rows: Sequence[Row], series: str) -> Panel | None:
    """The k of the least expected loss against the budget, a curve a method."""
    own = [row for row in rows if row.series == series]
    curves = []
    for method in _methods(own)[:_MOST]:
        found = optima(book, [row for row in own if row.is_original or row.method == method])
        points = tuple(
            Point(one.total_bits, one.bits, f"{one.precision}: {one.params:.3g} parameters, loss {one.loss:.3f}") for one in found
        )
        curves.append(Series(method, points, style="line"))
    if not any(curve.points for curve in curves):
        return None
    shown = tuple(curve for curve in curves if curve.points)
    title, budget = f"{_name(series)}: optimum k", "budget: all bits of the encoded weights"
    return Panel(title, budget, "bits of a code", shown, log_x=True, legend=False, y_ticks=(1, 2, 3, 4, 5, 6, 8, 16))


def data_types(rows: Sequence[Row], series: str) -> Panel | None:
    """What encoding adds to the loss of one model, against bits a weight: a curve a data type (a method, where rows name none)."""
    damaged, measure = _damages(rows, series)
    curves = [
        Series(name, tuple(Point(row.bpw, damage, _tooltip(row)) for row, damage in sorted(_lowest(found), key=lambda pair: pair[0].bpw)))
        for name, found in _by(damaged, lambda pair: str(pair[0].extra.get("grid") or pair[0].method))
    ]
    told = [curve for curve in curves if len(curve.points) > 1]
    if not told:
        return None
    best = sorted(told, key=_above_line(told))[:_MOST]
    return Panel(f"{_name(series)}: what encoding adds", "stored bits per weight", measure, tuple(best), legend=False)


def group_sizes(rows: Sequence[Row], series: str) -> Panel | None:
    """What encoding adds against bits a weight: a curve a group size."""
    damaged, measure = _damages(rows, series)
    curves = [
        Series(
            "per row" if group == -1 else f"groups of {group}",
            tuple(Point(row.bpw, damage, _tooltip(row)) for row, damage in _lowest(found)),
        )
        for group, found in _by(damaged, lambda pair: pair[0].group_size)
    ]
    curves = [curve for curve in curves if len(curve.points) > 1][:_MOST]
    if len(curves) < 2:
        return None
    return Panel(f"{_name(series)}: group sizes", "stored bits per weight", measure, tuple(curves), legend=False)


def law_fit(book: LawBook, rows: Sequence[Row], series: str) -> Panel | None:
    """Measured rows and what the law says between them, with its 90 % band: originals and the precisions that most sizes have."""
    own = [row for row in rows if row.series == series]
    sizes = sorted({row.params for row in own})
    groups = sorted(_by(own, lambda row: row.precision), key=lambda pair: (-len(pair[1]), pair[0]))[:_MOST]
    if len(sizes) < 2:
        return None
    curves: list[Series] = []
    usual = _ceiling([Series("", tuple(Point(1.0, _perplexity(row), "") for row in own if row.is_original))]) if own else _CEILING
    for colour, (precision, found) in enumerate(groups):
        if float(np.median([_perplexity(row) for row in found])) > usual:
            continue  # collapsed: nothing to see at this scale
        grid = [replace(found[0], params=round(size)) for size in np.geomspace(sizes[0], sizes[-1], _STEPS)]
        said = predict_rows(book, grid)
        if float(np.median([one.high / one.low for one in said])) > _WIDEST:
            continue
        line = tuple(Point(row.params, one.perplexity, "") for row, one in zip(grid, said, strict=True))
        band = tuple((row.params, one.low, min(one.high, usual)) for row, one in zip(grid, said, strict=True))
        curves.append(Series("", line, "line", colour, band))
        marks = tuple(Point(row.params, _perplexity(row), _tooltip(row)) for row in sorted(found, key=lambda row: row.params))
        curves.append(Series(precision, marks, "marks", colour))
    if not curves:
        return None
    return Panel(f"{_name(series)}: law and rows", "parameters", "perplexity", tuple(curves), log_x=True, legend=False, ceiling=usual)


def residuals(law: FittedLaw) -> Panel | None:
    """How far the law is off on each held-out row, against size."""
    groups = sorted(_by(law.misses, lambda miss: miss.row.precision), key=lambda pair: -len(pair[1]))[:_MOST]
    curves = tuple(
        Series(
            precision,
            tuple(
                Point(miss.row.params, max(abs(miss.error), 1e-4), f"{miss.row.family} {miss.row.params:,} {precision}: {miss.error:+.3f}")
                for miss in sorted(found, key=lambda miss: miss.row.params)
            ),
            "marks",
        )
        for precision, found in groups
    )
    if not curves:
        return None
    return Panel(f"{law.law.form}: left-out models", "parameters", "|Δ log perplexity|, nats", curves, log_x=True, legend=False)


def _frontier(points: Sequence[tuple[float, Row]], title: str, x_label: str, words: Callable[[float], str]) -> Panel | None:
    if len(points) < 2:
        return None
    ordered = sorted(points, key=lambda pair: (pair[0], _perplexity(pair[1])))
    kept: list[tuple[float, Row]] = []
    for x, row in ordered:
        if not kept or _perplexity(row) < _perplexity(kept[-1][1]):
            kept.append((x, row))
    places = {id(row): Point(x, _perplexity(row), f"{_tooltip(row)}, {words(x)}") for x, row in ordered}
    everything = Series("every row", tuple(places[id(row)] for _, row in ordered), "marks", 3)
    frontier = Series("no other is better", tuple(places[id(row)] for _, row in kept), "both", 0)
    curves = (everything, frontier)
    return Panel(title, x_label, "perplexity", curves, log_x=True, legend=False, ceiling=_ceiling([frontier]))


def _by(items: Iterable[T], key: Callable[[T], K]) -> list[tuple[K, list[T]]]:
    """Items by what `key` says of them, in its order."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [(value, groups[value]) for value in sorted(groups)]


def _best_by_size(rows: Sequence[Row]) -> list[Row]:
    return [min(found, key=_perplexity) for _, found in _by(rows, lambda row: row.params)]


def _lowest(pairs: Sequence[tuple[Row, float]]) -> list[tuple[Row, float]]:
    """The least damage of each number of bits."""
    return [min(found, key=lambda pair: pair[1]) for _, found in _by(pairs, lambda pair: round(pair[0].bpw, 2))]


def _damages(rows: Sequence[Row], series: str) -> tuple[list[tuple[Row, float]], str]:
    """Encoded rows of the model of a series that has most, the largest of such, with what they lose, and what that is measured by.

    KL divergence where all of them tell it: the difference of two losses is noise where little is lost.
    """
    own = [row for row in rows if row.series == series]
    originals = {row.model: row for row in own if row.is_original}
    encoded = [row for row in own if not row.is_original and row.model in originals]
    if not encoded:
        return [], ""
    models = {row.model for row in encoded}
    model = max(models, key=lambda one: (sum(row.model == one for row in encoded), one[2]))
    of = [row for row in encoded if row.model == model]
    divergences = [(row, row.number("kl_mean") or 0.0) for row in of]
    if all(divergence > 0 for _, divergence in divergences):
        return divergences, "KL divergence, nats"
    base = _perplexity(originals[model])
    return [(row, damage) for row in of if (damage := float(np.log(_perplexity(row) / base))) > 0], "loss above 16 bits, nats"


def _above_line(curves: Sequence[Series]) -> Callable[[Series], float]:
    """How far a curve lies above the line through the logarithms of all, so that curves of few bits compare with those of many."""
    points = np.array([(point.x, np.log(point.y)) for curve in curves for point in curve.points])
    slope, base = np.polyfit(points[:, 0], points[:, 1], 1) if np.ptp(points[:, 0]) > 0 else (0.0, 0.0)
    return lambda curve: float(np.mean([np.log(point.y) - base - slope * point.x for point in curve.points]))


def _methods(rows: Sequence[Row]) -> list[str]:
    encoded = [row.method for row in rows if not row.is_original]
    return sorted(set(encoded), key=lambda method: (-encoded.count(method), method))


def _bytes(row: Row) -> float:
    return row.number("file_bytes") or row.params * row.bpw / 8


def _ceiling(curves: Sequence[Series]) -> float:
    values = [point.y for curve in curves for point in curve.points]
    return _CEILING * float(np.median(values)) if values else float("inf")


def _perplexity(row: Row) -> float:
    return row.perplexity or float("nan")


def _tooltip(row: Row) -> str:
    return f"{model_name(row)} {row.extra.get('scheme') or row.precision}: {row.bpw:.2f} bpw, perplexity {row.perplexity:.4g}"


def _name(series: str) -> str:
    return series.rsplit("/", 2)[0]
