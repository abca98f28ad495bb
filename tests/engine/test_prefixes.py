"""Kept sequences: found by what they share, freed oldest first, each once."""

import numpy as np

from kbit.engine.prefixes import PrefixCache, common_prefix
from kbit.engine.stepper import Feed

from .fakes import HashStepper


def _tokens(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def _keep(cache: PrefixCache, stepper: HashStepper, *tokens: int) -> int:
    sequence = stepper.sequence()
    stepper.step([Feed(sequence, tokens, "none")])
    cache.keep(sequence, _tokens(*tokens))
    return sequence


def test_common_prefix() -> None:
    assert common_prefix(_tokens(1, 2, 3), _tokens(1, 2, 4, 5)) == 2
    assert common_prefix(_tokens(1, 2), _tokens(1, 2, 4)) == 2
    assert common_prefix(_tokens(), _tokens(1)) == 0
    assert common_prefix(_tokens(2), _tokens(1)) == 0


def test_the_one_that_shares_most() -> None:
    stepper = HashStepper()
    cache = PrefixCache(stepper, 4)
    first, second = _keep(cache, stepper, 1, 2, 3, 4), _keep(cache, stepper, 1, 2, 9)
    assert cache.longest(_tokens(1, 2, 3, 7)) == (first, 3)
    assert cache.longest(_tokens(1, 2, 9, 7)) == (second, 3)
    assert cache.longest(_tokens(5, 6)) == (None, 0)


def test_the_one_used_longest_ago_goes() -> None:
    stepper = HashStepper()
    cache = PrefixCache(stepper, 2)
    first, second = _keep(cache, stepper, 1, 1), _keep(cache, stepper, 2, 2)
    cache.longest(_tokens(1, 1, 5))  # the first is in use
    third = _keep(cache, stepper, 3, 3)
    assert set(stepper.live) == {first, third}
    assert second not in stepper.live
    assert cache.evict()
    assert set(stepper.live) == {third}
    cache.clear()
    assert not stepper.live
    assert not cache.evict()


def test_what_another_contains_is_not_kept_twice() -> None:
    stepper = HashStepper()
    cache = PrefixCache(stepper, 4)
    _keep(cache, stepper, 1, 2)
    longer = _keep(cache, stepper, 1, 2, 3)
    _keep(cache, stepper, 1)
    _keep(cache, stepper, 1, 2, 3)
    assert set(stepper.live) == {longer}
    assert len(cache) == 1


def test_none_are_kept() -> None:
    stepper = HashStepper()
    _keep(PrefixCache(stepper, 0), stepper, 1, 2)
    assert not stepper.live
