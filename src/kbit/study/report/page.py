"""The page of a study: charts, the tables behind them, how to read them, and the commands that made it.

No script, no link to a resource: a content security policy in the page itself forbids both. It follows the reader's light or dark mode,
and has one column on a phone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from kbit.charts.svg import COLOURS, STYLE, Panel, svg_panel
from kbit.study.book import LawBook
from kbit.study.fitting import Fitting
from kbit.study.report import panels
from kbit.study.report.tables import coefficient_table, count_of, form_table, outlier_table, row_table
from kbit.study.rows import Row

__all__ = ["StudyReport", "render_study"]

#: series that get charts of their own
_MOST_SERIES = 3


@dataclass(frozen=True, slots=True)
class StudyReport:
    """All that the page shows.

    Attributes:
        title: of the study.
        rows: what was measured.
        fitting: the laws; None where the rows allow none.
        no_laws: why not.
        commands: that made the page, a line each.
        facts: name → value, versions and machine.
    """

    title: str
    rows: tuple[Row, ...]
    fitting: Fitting | None
    no_laws: str
    commands: tuple[str, ...]
    facts: Mapping[str, str]


def render_study(report: StudyReport) -> str:
    """The page as HTML text."""
    style = files("kbit.charts").joinpath("page.css").read_text(encoding="utf-8")
    book = None if report.fitting is None else LawBook.of(report.fitting)
    sections = [_summary(report), *_charts(report, book), _laws(report), _how_to_read()]
    tail = [f"<section><h2>Every row</h2>{row_table(report.rows)}</section>", _facts(report)]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>kbit: {escape(report.title)}</title>",
            f"<style>{STYLE}\n{style}</style>\n</head>\n<body>\n<main class=study>",
            f"<header><p class=eyebrow>kbit report</p><h1>{escape(report.title)}</h1></header>",
            *sections,
            *tail,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _summary(report: StudyReport) -> str:
    models, series = {row.model for row in report.rows}, {row.series for row in report.rows}
    figures = [
        ("rows", f"{len(report.rows):,}", f"{len(series)} series"),
        ("models", str(len(models)), f"{count_of(min(m[2] for m in models))} to {count_of(max(m[2] for m in models))} parameters"),
    ]
    if report.fitting is not None:
        best = report.fitting.laws[0]
        error = "not told" if best.heldout_error is None else f"{best.heldout_error:.3f} nats"
        figures.append(("best law", best.law.form, f"usual error on left-out models {error}"))
        figures.append(("outliers", str(len(report.fitting.outliers())), "rows that it is far off at"))
    cards = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>" for name, value, note in figures)
    return f"<section class=answer><dl class=cards>{cards}</dl></section>"


def _charts(report: StudyReport, book: LawBook | None) -> list[str]:
    names = _series(report.rows)
    methods = {name: _methods(report.rows, name) for name in names}
    rows = report.rows
    sections: list[tuple[str, str, list[Panel | None]]] = [
        (
            "Loss against all bits",
            "One curve for each k. At a given number of bits, the lowest curve is the k to take: a larger model in fewer bits, or a "
            "smaller one in more.",
            [panels.bit_levels(rows, name, method) for name in names for method in methods[name][:2]],
        ),
        (
            "Loss, bytes and time",
            "Every row is a mark; the line joins those that no other beats.",
            [make(rows, name) for name in names for make in (panels.pareto_bytes, panels.pareto_time)],
        ),
        (
            "Data types and group sizes",
            "What encoding adds to the loss of one model. Lower is better; equal steps of the axis are equal factors.",
            [make(rows, name) for name in _series(rows, models=1) for make in (panels.data_types, panels.group_sizes)],
        ),
    ]
    if book is not None and report.fitting is not None:
        fitted: list[Callable[[LawBook, Sequence[Row], str], Panel | None]] = [panels.optimum_bits, panels.law_fit]
        about = (
            "The k that the laws expect the least loss of at each budget, and the law's line and 90 % band beside the rows.",
            "How far the best law is off on rows of models that it has not seen, each left out of the fit once.",
        )
        sections += [
            ("Optimum k, and the laws", about[0], [make(book, rows, name) for make in fitted for name in names]),
            ("What the law misses", about[1], [panels.residuals(one) for one in report.fitting.laws[:2]]),
        ]
    return [_section(*section) for section in sections if any(section[2])]


def _section(title: str, about: str, drawn: Sequence[Panel | None]) -> str:
    figures = "".join(f"<figure>{svg_panel(panel)}{_legend(panel)}</figure>" for panel in drawn if panel is not None)
    return f'<section><h2>{escape(title)}</h2><p>{escape(about)}</p><div class="charts">{figures}</div></section>'


def _legend(panel: Panel) -> str:
    entries = []
    for at, series in enumerate(panel.series):
        if series.name:
            number = (at if series.colour is None else series.colour) % len(COLOURS)
            entries.append(f'<span><i class="swatch" style="background:var(--s{number})"></i>{escape(series.name)}</span>')
    return f'<figcaption class="legend">{"".join(entries)}</figcaption>'


def _laws(report: StudyReport) -> str:
    if report.fitting is None:
        return f"<section><h2>Laws</h2><p>None: {escape(report.no_laws)}</p></section>"
    fitting = report.fitting
    latency = ""
    if fitting.latency is not None:
        error = "" if fitting.latency.error is None else f"; off by {fitting.latency.error:.1%} on cells left out (median)"
        numbers = ", ".join(f"{name} = {value:.4g}" for name, value in fitting.latency.coefficients().items())
        latency = f"<h3>Time of a token</h3><p><code>{escape(fitting.latency.formula)}</code>: {escape(numbers + error)}</p>"
    return (
        f"<section><h2>Laws</h2>{form_table(fitting.laws)}<h3>Outliers</h3>{outlier_table(fitting)}{latency}"
        f"<details><summary>Coefficients of {escape(fitting.laws[0].law.form)}</summary>{coefficient_table(fitting.laws[0])}</details>"
        "</section>"
    )


def _how_to_read() -> str:
    return (
        "<details open><summary>How to read this</summary><ul>"
        "<li><b>k</b> is the number of bits of a code; <b>bits per weight</b> counts all that is stored: codes, scales, codebooks, "
        "padding. <b>All bits</b> are bits per weight times encoded weights (all parameters, where rows do not tell).</li>"
        "<li><b>Perplexity</b> is how many words the model hesitates between; its logarithm is the loss in nats a token. Perplexities "
        "compare within a series only: one family, one text, one context. Rows far above the others leave through the top, and are "
        "counted there.</li>"
        "<li>A <b>law</b> says the loss from size and bits. Its <b>usual error</b> is that on models it was not fitted to. The "
        "<b>band</b> is meant to hold nine of ten such rows; it is wide where methods are erratic, and wider outside of the sizes "
        "measured.</li>"
        "<li>The <b>optimum k</b> moves with method and family. Where its curve lies at 3, three bits of a larger model beat four of a "
        "smaller.</li>"
        "<li>An <b>outlier</b> may be a broken encoding, or a model that this method breaks. Look at it before you believe either.</li>"
        "<li>Points show their figures under the pointer.</li></ul></details>"
    )


def _facts(report: StudyReport) -> str:
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.facts.items())
    commands = escape("\n".join(report.commands))
    return f"<section><h2>How it was made</h2><pre><code>{commands}</code></pre><dl class=facts>{items}</dl></section>"


def _series(rows: Sequence[Row], models: int = 2) -> list[str]:
    """Series of at least so many models and some encoded rows, those of most rows first."""
    names = {row.series: 0 for row in rows if not row.is_original}
    for row in rows:
        if row.series in names:
            names[row.series] += 1
    enough = [name for name in names if len({row.model for row in rows if row.series == name}) >= models]
    return sorted(enough, key=lambda name: -names[name])[:_MOST_SERIES]


def _methods(rows: Sequence[Row], series: str) -> list[str]:
    encoded = [row.method for row in rows if row.series == series and not row.is_original]
    return sorted(set(encoded), key=lambda method: (-encoded.count(method), method))
