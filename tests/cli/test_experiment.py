"""Which schemes the demo tries."""

import pytest

pytest.importorskip("transformers")

from kbit.cli.eval import books
from kbit.cli.experiment import EMBEDDING, _text, plans
from kbit.evaluate.windows import read_text


def test_five_data_types_at_every_k() -> None:
    found = plans(range(2, 9))
    assert len(found) == 35
    assert all(plan.embedding.text == plan.head.text == EMBEDDING for plan in found)
    assert {(plan.default.grid, plan.default.bits) for plan in found} == {
        (grid, k) for grid in ("int", "float", "nf", "log", "kmeans") for k in range(2, 9)
    }


def test_log_grids_span_eight_octaves_from_four_bits_on() -> None:
    for plan in plans(range(4, 9)):
        if plan.default.grid == "log":
            assert plan.default.per_octave is not None
            assert 2 ** (plan.default.bits - 1) / plan.default.per_octave == 8


def test_the_text_takes_the_same_share_of_every_book() -> None:
    parts = [read_text(file) for file in sorted(books().glob("*.txt"))]
    text = _text(books(), 4096)
    places = [text.index(part[:200]) for part in parts]
    lengths = [end - start for start, end in zip(places, [*places[1:], len(text)], strict=True)]
    assert max(lengths) - min(lengths) < 30
    assert _text(books(), 10**6) == "\n\n".join(parts)
