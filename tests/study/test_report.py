"""The page is one well-formed file without script or link, and holds every chart that the rows allow."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from kbit.study.book import LawBook
from kbit.study.fitting import Fitting
from kbit.study.optimum import optima
from kbit.study.report import StudyReport, panels, render_study
from kbit.study.rows import Row

OPT = "opt/wikitext2/2048"


def _page(rows: tuple[Row, ...], fitting: Fitting | None) -> str:
    return render_study(StudyReport("A <study>", rows, fitting, "too few & small", ("kbit report x",), {"kbit": "0"}))


def test_page_is_whole(published: tuple[Row, ...], fitting: Fitting) -> None:
    page = _page(published, fitting)
    assert "A &lt;study&gt;" in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|src=|@import|url\(", page)
    drawn = re.findall(r"<svg.*?</svg>(?=<figcaption)", page, re.DOTALL)
    assert len(drawn) >= 14
    for one in drawn:
        ElementTree.fromstring(one)
    for heading in (
        "Loss against all bits",
        "Loss, bytes and time",
        "Optimum k, and the laws",
        "What the law misses",
        "How to read this",
        "How it was made",
    ):
        assert heading in page
    assert page.count("<tr>") > len(published)


def test_page_without_laws(published: tuple[Row, ...]) -> None:
    page = _page(published[:3], None)
    assert "None: too few &amp; small" in page


def test_hostile_words_are_escaped(published: tuple[Row, ...]) -> None:
    rows = tuple(replace(row, family="<b>&", method="none" if row.is_original else '"><i>') for row in published[:30])
    page = _page(rows, None)
    assert "<b>&<" not in page
    assert '"><i>' not in page


def test_panels_hold_the_rows(published: tuple[Row, ...], book: LawBook) -> None:
    levels = panels.bit_levels(published, OPT, "gptq")
    assert levels is not None
    assert [curve.name for curve in levels.series] == ["3 bits", "4 bits", "16 bits"]
    assert all(len(curve.points) == 7 for curve in levels.series)
    fit = panels.law_fit(book, published, OPT)
    assert fit is not None
    assert any(curve.band for curve in fit.series)
    for low, high in ((low, high) for curve in fit.series for _, low, high in curve.band):
        assert low <= high
    assert panels.pareto_time(published, OPT) is None
    timed = [replace(row, extra={"decode_tokens_per_s": 1e9 / row.params}) for row in published]
    assert panels.pareto_time(timed, OPT) is not None
    assert panels.bit_levels(published, "nothing/at/1", "gptq") is None


def test_optimum_stays_within_what_was_measured(published: tuple[Row, ...], book: LawBook) -> None:
    rows = [row for row in published if row.series == OPT and (row.is_original or row.method == "gptq")]
    found = optima(book, rows)
    assert found
    for one in found:
        sizes = [row.params for row in rows if row.precision == one.precision]
        assert min(sizes) * 0.99 <= one.params <= max(sizes) * 1.01
        assert one.params * one.bpw == pytest.approx(one.total_bits, rel=1e-3)
    assert {one.bits for one in found if 1e9 < one.total_bits < 4e11} == {4}
    losses = [one.loss for one in found]
    assert losses[-1] < losses[0]


def test_what_encoding_adds_is_divergence_where_all_rows_tell_it(published: tuple[Row, ...]) -> None:
    series = published[0].series
    told = [replace(row, extra={**row.extra, "grid": "int", "kl_mean": 2.0**-row.bits}) for row in published if row.series == series]
    panel = panels.data_types(told, series)
    assert panel is not None
    assert panel.y_label.startswith("KL")
    assert {point.y for point in panel.series[0].points} <= {2.0**-row.bits for row in told}
    panel = panels.data_types([replace(row, extra={**row.extra, "kl_mean": 0.0}) if row.bits == 4 else row for row in told], series)
    assert panel is not None
    assert panel.y_label.startswith("loss")


def test_data_types_of_few_bits_are_shown_beside_those_of_many(published: tuple[Row, ...]) -> None:
    """Six types of 2 to 8 bits, and one of 2 and 3 that loses half of what they do there: it is among the five that are drawn."""
    base = next(row for row in published if row.is_original)
    names = {**{f"wide{number}": range(2, 9) for number in range(6)}, "narrow": range(2, 4)}
    rows = [base] + [
        replace(base, method="nearest", bits=bits, bpw=float(bits), perplexity=99.0, extra={"grid": name, "kl_mean": worth * 4.0**-bits})
        for name, widths in names.items()
        for bits in widths
        for worth in [0.5 if name == "narrow" else 1.0]
    ]
    panel = panels.data_types(rows, base.series)
    assert panel is not None
    assert panel.series[0].name == "narrow"
