"""Forms are told apart by models they have not seen, and the published rows are met as promised."""

from dataclasses import replace

import numpy as np
import pytest
from tests.study.conftest import made_rows

from kbit.core.errors import FormatError, NumericsError, SchemeError
from kbit.study.book import LawBook
from kbit.study.fitting import Fitting, fit_laws
from kbit.study.predict import predict_rows
from kbit.study.rows import Row


def _inside(fitting: Fitting, form: str, precision: str) -> float:
    law = next(one for one in fitting.laws if one.law.form == form)
    return float(np.median([abs(miss.error) for miss in law.misses if miss.row.precision == precision and miss.beyond == 0]))


def test_published_rows_of_left_out_models_are_met(fitting: Fitting) -> None:
    best = fitting.laws[0].law.form
    assert best == "power"
    assert _inside(fitting, best, "gptq 4") <= 0.02
    assert _inside(fitting, best, "gptq 3") <= 0.04
    errors = [one.heldout_error or 0 for one in fitting.laws]
    assert errors == sorted(errors)
    assert len(fitting.laws) == 5


def test_outliers_are_named(fitting: Fitting) -> None:
    named = {(miss.row.family, miss.row.params, miss.row.precision) for miss in fitting.outliers()}
    assert ("opt", 66_000_000_000, "rtn 4") in named
    assert ("opt", 1_300_000_000, "rtn 4") in named
    assert ("opt", 66_000_000_000, "gptq 3") in named
    assert not any(family == "llama1" and precision == "gptq 4" for family, _, precision in named)
    assert len(named) < 12


def test_held_out_rows_take_no_part_in_their_own_prediction() -> None:
    rows = made_rows(noise=0.005)
    spoiled = [replace(row, perplexity=(row.perplexity or 0) * 3) if row.params == 1_000_000_000 else row for row in rows]
    found = {miss.row.place: miss.error for miss in fit_laws(spoiled, "power", draws=0).laws[0].misses}
    hit = [error for place, error in found.items() if next(row for row in rows if row.place == place).params == 1_000_000_000]
    assert np.median(hit) == pytest.approx(-np.log(3), abs=0.15)


def test_bootstrap_intervals_hold_the_truth_and_repeat() -> None:
    rows = made_rows(noise=0.01)
    one, two = (fit_laws(rows, "power", draws=12, seed=3).laws[0] for _ in range(2))
    assert one.intervals == two.intervals
    low, high = one.intervals["α"]
    assert low <= high
    assert low - 0.05 <= 0.4 <= high + 0.05


def test_nested_coverage_of_made_rows() -> None:
    rows = made_rows(noise=0.02, sizes=(0.1, 0.2, 0.4, 1.0, 2.0, 4.0, 10.0, 20.0))
    hits = []
    for params in (200_000_000, 1_000_000_000, 4_000_000_000):
        left = [row for row in rows if row.params == params]
        book = LawBook.of(fit_laws([row for row in rows if row.params != params], "power", draws=0))
        hits += [said.low <= (row.perplexity or 0) <= said.high for row, said in zip(left, predict_rows(book, left), strict=True)]
    assert np.mean(hits) >= 0.75


def test_too_few_models_and_unknown_forms() -> None:
    rows = made_rows(sizes=(1.0, 3.0))
    with pytest.raises(NumericsError, match=r"params: a size curve has 3 coefficients.*got 2"):
        fit_laws(rows)
    with pytest.raises(SchemeError, match="did you mean 'power'"):
        fit_laws(made_rows(), "powr")


def test_rows_of_originals_alone_fit_only_what_speaks_of_them() -> None:
    rows = [row for row in made_rows() if row.is_original]
    fitting = fit_laws(rows, draws=0)
    assert [one.law.form for one in fitting.laws] == ["bit-level"]
    assert set(fitting.refused) >= {"power", "kumar", "ouyang", "gaussian", "latency"}


def test_a_family_without_16_bits_is_held_against_its_most_bits() -> None:
    rows = [row for row in made_rows() if row.bits != 16]
    fitting = fit_laws(rows, "power", draws=0)
    assert (fitting.laws[0].heldout_error or 1) < 0.05


def test_book_survives_its_file(book: LawBook, published: tuple[Row, ...], tmp_path) -> None:  # type: ignore[no-untyped-def]
    book.save(tmp_path / "law.json")
    again = LawBook.load(tmp_path / "law.json")
    assert [one.to_json() for one in predict_rows(again, published)] == [one.to_json() for one in predict_rows(book, published)]
    assert again.provenance["rows"] == 109
    assert len(again.provenance["sources"]) >= 2


@pytest.mark.parametrize("spoil", ["format", "version", "laws", "form", "number", "empty"])
def test_book_of_nonsense_is_refused(book: LawBook, spoil: str) -> None:
    value = book.to_json()
    match spoil:
        case "format":
            value["format"] = "other"
        case "version":
            value["version"] = 2
        case "laws":
            del value["laws"]
        case "form":
            value["laws"][0]["form"] = "unknown"
        case "number":
            value["laws"][0]["spread"]["inside"] = "much"
        case "empty":
            value["laws"] = []
    with pytest.raises(FormatError, match=r"law\.json"):
        LawBook.from_json(value, "law.json")


def test_the_packages_law_is_of_the_published_rows(book: LawBook) -> None:
    shipped = LawBook.load()
    assert shipped.provenance["rows_digest"] == book.provenance["rows_digest"]
    assert shipped.latency is not None
    assert [entry.law.form for entry in shipped.entries] == [entry.law.form for entry in book.entries]
