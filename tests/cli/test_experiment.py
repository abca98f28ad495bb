"""Which schemes the demo tries."""

import pytest

pytest.importorskip("transformers")

from kbit.cli.experiment import EMBEDDING, plans


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
