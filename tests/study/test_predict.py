"""Predictions answer for any row, in order, and are honest about what was never seen."""

import math
from dataclasses import replace

import pytest

from kbit.core.errors import FormatError, NumericsError, SchemeError
from kbit.core.scheme import Scheme
from kbit.study.book import LawBook
from kbit.study.predict import expected_band, predict_rows
from kbit.study.rows import Row
from kbit.study.schemes import method_of, scheme_row
from kbit.tensor.quantized import part_bytes

FACTS = {"family": "opt", "params": 2_700_000_000, "dataset": "wikitext2", "context": 2048}


def _wanted(**changes: object) -> Row:
    row = Row("opt", 2_700_000_000, "gptq", 4, -1, 4.0, "wikitext2", 2048, None)
    return replace(row, **changes)  # type: ignore[arg-type]


def test_order_and_measured_perplexity_do_not_matter(book: LawBook) -> None:
    rows = [_wanted(), _wanted(bits=3, bpw=3.0), _wanted(method="none", bits=16, bpw=16.0)]
    there, back = predict_rows(book, rows), predict_rows(book, rows[::-1])
    assert there == back[::-1]
    assert predict_rows(book, [replace(row, perplexity=1e6) for row in rows]) == there
    four, three, whole = (one.perplexity for one in there)
    assert whole < four < three
    assert all(1 <= one.low < one.perplexity < one.high for one in there)


def test_more_bits_and_larger_models_lose_less(book: LawBook) -> None:
    schemes = [f"nf{bits}:g64+imp+gptq" for bits in (2, 3, 4, 5, 6)]
    losses = [one.perplexity for one in predict_rows(book, [scheme_row(FACTS, text, book.methods) for text in schemes])]
    assert losses == sorted(losses, reverse=True)
    sizes = [_wanted(params=round(size * 1e9)) for size in (0.2, 1, 5, 25, 120)]
    losses = [one.perplexity for one in predict_rows(book, sizes)]
    assert losses == sorted(losses, reverse=True)


def test_unseen_family_is_wide_and_says_so(book: LawBook) -> None:
    known, unseen = predict_rows(book, [_wanted(), _wanted(family="never")])
    assert "never" in unseen.note
    assert known.note == ""
    assert unseen.high / unseen.low > 1.5 * known.high / known.low


def test_unseen_method_and_size_outside(book: LawBook) -> None:
    known, method, far = predict_rows(book, [_wanted(), _wanted(method="sorcery"), _wanted(params=10**13)])
    assert "method 'sorcery'" in method.note
    assert method.high / method.low > known.high / known.low
    assert "outside" in far.note
    assert far.high / far.low > known.high / known.low


def test_bits_between_those_seen_are_answered_by_another_form(book: LawBook) -> None:
    (said,) = predict_rows(book, [_wanted(bits=5, bpw=5.0)])
    four, whole = predict_rows(book, [_wanted(), _wanted(method="none", bits=16, bpw=16.0)])
    assert said.form != "power"
    assert whole.perplexity <= said.perplexity <= four.perplexity * 1.02


def test_band_of_a_sound_encoding(book: LawBook) -> None:
    low, high = expected_band(book, FACTS, "int4:g64+gptq", perplexity=12.0)
    assert low < 12.0 < high < 18.0
    _, wider = expected_band(book, FACTS, "int3:g64+gptq", perplexity=12.0)
    assert wider > high
    assert math.isfinite(expected_band(book, FACTS | {"family": "other"}, "nf2:g64", perplexity=12.0)[1])


def test_facts_and_schemes_that_cannot_be_read(book: LawBook) -> None:
    with pytest.raises(FormatError, match="'params'"):
        expected_band(book, {"family": "opt", "dataset": "text"}, "int4", 10.0)
    with pytest.raises(NumericsError, match="positive"):
        expected_band(book, FACTS | {"params": -1}, "int4", 10.0)
    with pytest.raises(SchemeError):
        expected_band(book, FACTS, "nonsense", 10.0)


def test_words_of_methods() -> None:
    scheme = Scheme.parse("int3:g64+imp+gptq")
    assert method_of(scheme) == "imp+gptq"
    assert method_of(scheme, ["gptq", "rtn"]) == "gptq"
    assert method_of(scheme, ["gptq", "imp+gptq"]) == "imp+gptq"
    assert method_of(Scheme.parse("int3:g64"), ["gptq", "rtn"]) == "rtn"
    assert method_of(Scheme.parse("int3:g64"), ["nearest", "rtn"]) == "nearest"


def test_scheme_rows_count_what_is_stored() -> None:
    assert scheme_row(FACTS, "int3:g64").bpw == 3.25
    assert scheme_row(FACTS, "int3:g128:asym").bpw == pytest.approx(3 + 24 / 128)
    assert scheme_row(FACTS | {"bpw": 3.3}, "int3:g64").bpw == 3.3
    assert scheme_row(FACTS, "16").is_original


@pytest.mark.parametrize(
    ("text", "bpw"),
    [
        ("int3:g64+outlier1", 3.25 + 0.01 * 24 + 1 / 32),
        ("int3:g64+outliercol1", 3.25 + 0.01 * 16),
        ("int3:g64+lowrank64", 3.25 + 64 * 8 * (4096 + 4096) / 4096**2),
        ("int4:g64+prune2:4", 1 + 2 + 0.25),
        ("int2:g64+residual2-1", 2.25 + 2.25 + 1.25),
        ("trellis2:g128+lowrank0.25b", 2.125 + 0.25),
    ],
)
def test_scheme_rows_count_parts_beside_the_codes(text: str, bpw: float) -> None:
    row = scheme_row(FACTS | {"hidden_size": 4096}, text)
    assert row.bpw == pytest.approx(bpw, abs=0.01)
    scheme, shape = Scheme.parse(text), (4096, 4096)
    assert row.bpw == 8 * sum(part_bytes(scheme, shape).values()) / (4096 * 4096)
    small = scheme_row(FACTS | {"hidden_size": 256}, text).bpw
    assert small == 8 * sum(part_bytes(scheme.for_row(256), (256, 256)).values()) / (256 * 256)


def test_the_bits_of_a_cascade_are_those_of_all_levels() -> None:
    assert scheme_row(FACTS, "int2:g64+residual2-1").bits == 5
    assert scheme_row(FACTS, "int2:g64+successive2").bits == 4
    assert scheme_row(FACTS, "vq3d2:g64").bits == 3
