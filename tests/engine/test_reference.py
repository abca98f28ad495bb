"""The sequences of the reference engine: forks, cuts and what a step may not do. What it computes is tested in test_families."""

from collections.abc import Callable

import numpy as np
import pytest

from kbit.core.errors import LimitError, NumericsError, ShapeError
from kbit.engine.feeds import Feed
from kbit.engine.reference import ReferenceEngine

from .models import CONTEXT, VOCABULARY, text


@pytest.fixture
def llama(engine: Callable[[str], ReferenceEngine]) -> ReferenceEngine:
    return engine("llama")


def test_wanted_rows_are_answered_in_order(llama: ReferenceEngine) -> None:
    tokens, other = text(9), text(5, seed=1)
    each = llama.step([Feed(llama.sequence(), tokens, "all")])
    rows = llama.step([Feed(llama.sequence(), other, "none"), Feed(llama.sequence(), tokens), Feed(llama.sequence(), tokens[:4], "all")])
    assert each.dtype == np.float32
    np.testing.assert_allclose(rows, np.concatenate([each[-1:], each[:4]]), rtol=1e-4, atol=1e-5)
    assert llama.step([Feed(llama.sequence(), other, "none")]).shape == (0, VOCABULARY)


def test_forks_go_their_own_ways(llama: ReferenceEngine) -> None:
    tokens = text(9)
    origin = llama.sequence()
    llama.step([Feed(origin, tokens[:6], "none")])
    whole, part = llama.fork(origin), llama.fork(origin, 4)
    assert [llama.length(sequence) for sequence in (origin, whole, part)] == [6, 6, 4]
    llama.step([Feed(whole, [90], "none")])
    rows = llama.step([Feed(origin, tokens[6:]), Feed(part, tokens[4:])])
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-4, atol=1e-5)


def test_a_cut_sequence_continues_as_if_nothing_had_followed(llama: ReferenceEngine) -> None:
    tokens = text(9)
    sequence, plain = llama.sequence(), llama.sequence()
    llama.step([Feed(sequence, [*tokens[:5], 90, 91], "none")])
    llama.truncate(sequence, 5)
    rows = llama.step([Feed(sequence, tokens[5:]), Feed(plain, tokens)])
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-4, atol=1e-5)
    assert llama.length(sequence) == 9


def test_dead_sequences_are_refused(llama: ReferenceEngine) -> None:
    sequence = llama.sequence()
    llama.free(sequence)
    for call in (llama.length, llama.fork, llama.free, lambda dead: llama.truncate(dead, 0), lambda dead: llama.step([Feed(dead, [1])])):
        with pytest.raises(NumericsError, match=f"sequence {sequence} is not alive"):
            call(sequence)
    assert llama.sequence() != sequence


def test_lengths_are_bounded(llama: ReferenceEngine) -> None:
    sequence = llama.sequence()
    llama.step([Feed(sequence, text(5), "none")])
    for length in (-1, 6):
        with pytest.raises(ShapeError, match=f"expected a length in 0…5, got {length}"):
            llama.truncate(sequence, length)
        with pytest.raises(ShapeError, match=f"expected a length in 0…5, got {length}"):
            llama.fork(sequence, length)


def test_a_refused_step_changes_nothing(llama: ReferenceEngine) -> None:
    good, full = llama.sequence(), llama.sequence()
    llama.step([Feed(full, text(CONTEXT), "none")])
    with pytest.raises(LimitError, match=f"expected at most {CONTEXT} positions"):
        llama.step([Feed(good, [1]), Feed(full, [1])])
    assert (llama.length(good), llama.length(full)) == (0, CONTEXT)
