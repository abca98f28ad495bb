"""Drafts are what followed the same tokens before."""

import numpy as np
import pytest

from kbit.core.errors import SchemeError
from kbit.engine.history import History
from kbit.engine.prompt_lookup import PromptLookup


def test_by_hand() -> None:
    lookup = PromptLookup(longest=3, shortest=1)
    assert lookup.propose(History([1, 2, 3, 4, 9, 1, 2, 3]), 2).tokens == (4, 9)
    assert lookup.propose(History([1, 2, 3, 4, 9, 1, 2, 3]), 9).tokens == (4, 9, 1, 2, 3)
    assert lookup.propose(History([5, 2, 7, 2, 8, 2]), 1).tokens == (8,)  # the latest place
    assert lookup.propose(History([1, 2, 5, 9, 2, 6, 1, 2]), 1).tokens == (5,)  # the longest n-gram
    assert lookup.propose(History([1, 1]), 4).tokens == (1,)
    assert lookup.propose(History([1]), 4).tokens == ()
    assert lookup.propose(History([1, 2, 3]), 4).tokens == ()


def test_shorter_ngrams_than_wanted_are_no_match() -> None:
    assert PromptLookup(longest=3, shortest=2).propose(History([5, 2, 7, 2]), 1).tokens == ()


def test_against_brute_force() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        tokens = random.integers(0, 4, random.integers(1, 30)).tolist()
        assert PromptLookup(3, 2).propose(History(tokens), 3).tokens == _slow(tokens)


def _slow(tokens: list[int]) -> tuple[int, ...]:
    for size in (3, 2):
        for begin in reversed(range(len(tokens) - size)):
            if tokens[begin : begin + size] == tokens[-size:]:
                return tuple(tokens[begin + size : begin + size + 3])
    return ()


@pytest.mark.parametrize("sizes", [(0, 0), (2, 3), (1.5, 1)])
def test_bad_sizes(sizes: tuple) -> None:
    with pytest.raises(SchemeError, match=r"expected (longest|shortest) to be"):
        PromptLookup(*sizes)
