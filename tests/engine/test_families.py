"""Every family against transformers: the same model, loaded by both, must give the same logits, however the text is cut into steps."""

import numpy as np
import pytest

from kbit.engine.feeds import Feed
from kbit.engine.reference import ReferenceEngine

from .conftest import Checkpoint, Engines
from .models import CONTEXT, KINDS, answer, build, difference, text

#: of the range of logits; float32 rounding alone measures below 2e-6
TOLERANCE = 1e-5

DECODERS = [name for name, kind in KINDS.items() if kind.causal]


def by_token(engine: ReferenceEngine, tokens: list[int]) -> np.ndarray:
    sequence = engine.sequence()
    return np.concatenate([engine.step([Feed(sequence, [token])]) for token in tokens])


@pytest.mark.parametrize("name", KINDS)
def test_agrees_with_transformers(name: str, checkpoint: Checkpoint, engines: Engines) -> None:
    model, engine = build(name), engines(checkpoint(name), KINDS[name].context)
    first, second = text(23, seed=1), text(9, seed=2)
    expected, other = answer(model, first), answer(model, second)

    whole = engine.step([Feed(engine.sequence(), first, "all")])
    assert difference(whole, expected) < TOLERANCE

    both = engine.step([Feed(engine.sequence(), first, "all"), Feed(engine.sequence(), second, "all")])
    assert difference(both[: len(first)], expected) < TOLERANCE
    assert difference(both[len(first) :], other) < TOLERANCE


@pytest.mark.parametrize("name", DECODERS)
def test_agrees_through_the_cache(name: str, checkpoint: Checkpoint, engines: Engines) -> None:
    model, engine = build(name), engines(checkpoint(name), KINDS[name].context)
    first, second = text(23, seed=1), text(9, seed=2)
    expected, other = answer(model, first), answer(model, second)

    assert difference(by_token(engine, first), expected) < TOLERANCE

    old, new = engine.sequence(), engine.sequence()
    engine.step([Feed(old, first[:14], "none")])
    both = engine.step([Feed(new, second, "all"), Feed(old, first[14:], "all")])
    assert difference(both[: len(second)], other) < TOLERANCE
    assert difference(both[len(second) :], expected[14:]) < TOLERANCE


@pytest.mark.parametrize("name", ["llama_llama3", "gpt2"])
def test_agrees_up_to_the_whole_context(name: str, checkpoint: Checkpoint, engines: Engines) -> None:
    engine = engines(checkpoint(name))
    tokens = text(CONTEXT)
    assert difference(engine.step([Feed(engine.sequence(), tokens, "all")]), answer(build(name), tokens)) < TOLERANCE
