"""The native step of models with an encoder and a decoder, against the oracle and transformers: plain and packed, alone and together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kbit import native
from kbit.core.errors import LimitError, ModelError, NumericsError, SchemeError, ShapeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.engine import Engine
from kbit.engine.engine_pair import EncoderDecoderEngine, groups
from kbit.engine.feeds import Feed
from kbit.engine.plan import make_encoder_decoder_plan
from kbit.engine.weights import ModelWeights
from kbit.store.folder import open_model

from .conftest import Checkpoint, Pack, Pairs
from .models import CONTEXT, PAIRS, answer_pair, build, difference, text

TOLERANCE = 1e-5
PLANS = {
    "int8": Plan(Scheme.parse("int8:g16"), embedding=Scheme.parse("int8:g16"), head=Scheme.parse("int8:g16")),
    "nf4": Plan(Scheme.parse("nf4:g16"), embedding=Scheme.parse("int8:g16"), head=Scheme.parse("int6:g-1")),
}

#: the decoder's vocabulary is smaller than the encoder's in one of them
TARGET = 83

Packed = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def packed(pack: Pack) -> Packed:
    return lambda name, plan: pack(name, PLANS[plan])


def load(folder: Path, **options: Any) -> EncoderDecoderEngine:
    options = {"mode": "exact", "cache": "fp32", "memory": "fp32", "cache_positions": 4096, "memory_positions": 4096, **options}
    return EncoderDecoderEngine.load(folder, **options)


def target(length: int, seed: int) -> list[int]:
    return text(length, seed, TARGET)


def whole(engine: Any, source: list[int], into: list[int]) -> np.ndarray:
    sequence = engine.sequence(source)
    try:
        return engine.step([Feed(sequence, into, "all")])
    finally:
        engine.free(sequence)


@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_transformers(name: str, checkpoint: Checkpoint) -> None:
    model, engine, source, into = build(name), load(checkpoint(name)), text(45, 1), target(40, 2)
    assert difference(whole(engine, source, into), answer_pair(model, source, into)) < TOLERANCE
    with torch.no_grad():
        states = model.get_encoder()(input_ids=torch.tensor([source])).last_hidden_state[0].numpy()
    assert difference(engine.encode(source), states) < TOLERANCE


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_the_oracle_packed(name: str, plan: str, packed: Packed, pairs: Pairs) -> None:
    folder, source, into = packed(name, plan), text(37, 3), target(33, 4)
    expected = whole(pairs(folder), source, into)
    assert difference(whole(load(folder), source, into), expected) < TOLERANCE
    fast = whole(load(folder, mode="fast", cache="fp16", memory="fp16"), source, into)
    assert np.abs(fast - expected).mean() < 0.01 * np.ptp(expected)


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("name", PAIRS)
def test_a_row_depends_on_its_own_texts_only(name: str, mode: str, packed: Packed) -> None:
    engine = load(packed(name, "nf4"), mode=mode, cache="fp16", memory="fp16", max_rows=16)
    sources, targets = [text(length, length) for length in (33, 5, 17)], [target(32, 6), target(29, 7), target(40, 8)]
    alone = whole(engine, sources[0], targets[0])
    c, a, b = engine.sequences([sources[2], sources[0], sources[1]])
    rows = [engine.step([Feed(b, targets[1][:3], "none"), Feed(a, targets[0][:20], "all"), Feed(c, targets[2][:9], "none")])]
    rows += [
        engine.step([Feed(c, [targets[2][9 + i]], "none"), Feed(a, [token], "all"), Feed(b, targets[1][3 + 2 * i : 5 + 2 * i], "none")])
        for i, token in enumerate(targets[0][20:])
    ]
    assert np.array_equal(np.concatenate(rows), alone)


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("name", ["t5", "bart", "marian"])
def test_threads_and_instruction_sets_change_no_byte(name: str, mode: str, packed: Packed) -> None:
    engine = load(packed(name, "nf4"), mode=mode, cache="int8", memory="fp16", threads=7)
    source, into, before = text(50, 8), target(41, 9), native.isa()
    found = []
    try:
        for isa in native.available_isas():
            native.set_isa(isa)
            for threads in (1, 2, 3, 7):
                engine.threads = threads
                found.append((engine.encode(source), whole(engine, source, into)))
    finally:
        native.set_isa(before)
    assert all(np.array_equal(mine, other) for one in found[1:] for mine, other in zip(one, found[0], strict=True))


@pytest.mark.parametrize(("cache", "tolerance"), [("fp16", 2e-3), ("int8", 2e-2), ("int4", 0.25), ("int3", 0.5)])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_cache_formats_stay_near(name: str, cache: str, tolerance: float, checkpoint: Checkpoint) -> None:
    source, into = text(40, 1), target(50, 2)
    exact = whole(load(checkpoint(name)), source, into)
    assert 0 < difference(whole(load(checkpoint(name), cache=cache), source, into), exact) < tolerance


def test_a_memory_in_halves_stays_near(checkpoint: Checkpoint) -> None:
    source, into = text(40, 1), target(50, 2)
    exact = whole(load(checkpoint("bart")), source, into)
    assert 0 < difference(whole(load(checkpoint("bart"), memory="fp16"), source, into), exact) < 2e-3


def test_distances_beyond_the_longest_share_a_bucket(checkpoint: Checkpoint, pairs: Pairs) -> None:
    """Texts of many pages, so that biases are those before, among and after the distances that differ."""
    source, into = text(150, 1), target(140, 2)
    assert difference(whole(load(checkpoint("t5")), source, into), whole(pairs(checkpoint("t5")), source, into)) < TOLERANCE


def test_forks_share_a_memory(packed: Packed) -> None:
    engine, source, into = load(packed("bart", "nf4")), text(35, 1), target(20, 2)
    room, free = engine._memory.native.free_pages(), engine._decoder._cache.free_pages()
    origin = engine.sequence(source)
    held = engine._memory.native.free_pages()
    assert held == room - 2
    engine.step([Feed(origin, [*into[:6], 5], "none")])
    engine.truncate(origin, 6)
    fork = engine.fork(origin, 4)
    assert (engine.length(origin), engine.length(fork), engine._memory.native.free_pages()) == (6, 4, held)
    expected = whole(engine, source, into)
    assert np.array_equal(engine.step([Feed(origin, into[6:])])[0], expected[-1])
    engine.free(origin)
    assert np.array_equal(engine.step([Feed(fork, into[4:])])[0], expected[-1])
    engine.free(fork)
    assert (engine._memory.native.free_pages(), engine._decoder._cache.free_pages()) == (room, free)
    for call in (engine.length, engine.free, engine.fork):
        with pytest.raises(NumericsError, match=f"sequence {fork} is not alive"):
            call(fork)


def test_many_texts_are_encoded_in_groups(packed: Packed) -> None:
    engine = load(packed("bart", "nf4"))
    sources = [text(length, length) for length in (64, 33, 1, 60, 9, 32)]
    alone = [whole(engine, source, [1, 2, 3]) for source in sources]
    together = engine.step([Feed(sequence, [1, 2, 3], "all") for sequence in engine.sequences(sources)])
    assert np.array_equal(together, np.concatenate(alone))


def test_groups_are_as_large_as_the_room() -> None:
    assert groups([], 64) == []
    assert groups([10, 32, 1], 64) == [(0, 2), (2, 3)]
    assert groups([100, 1, 64], 64) == [(0, 1), (1, 2), (2, 3)]


def test_sources_are_checked_and_leave_nothing_behind(packed: Packed) -> None:
    engine = load(packed("bart", "nf4"), memory_positions=64)
    room = engine._memory.native.free_pages()
    for source, error, message in (
        ([3] * (CONTEXT + 1), LimitError, f"expected at most {CONTEXT} positions"),
        ([97], NumericsError, "expected token ids in 0…96, got 97"),
        ([], ShapeError, "expected at least one token"),
    ):
        with pytest.raises(error, match=message):
            engine.sequences([[5], source])
        with pytest.raises(error, match=message):
            engine.encode(source)
    kept = engine.sequence(text(33, 1))
    with pytest.raises(LimitError, match=r"no room in the memory for a text of 1 tokens \(0 are free\)"):
        engine.sequence([5])
    engine.free(kept)
    assert engine._memory.native.free_pages() == room
    assert engine._encoder._lengths == engine._decoder._lengths == engine._memories == {}


def test_a_text_without_limit_fits_one_call(checkpoint: Checkpoint) -> None:
    engine = load(checkpoint("t5"))
    with pytest.raises(LimitError, match="expected at most 4096 positions, got 0 \\+ 4097"):
        engine.sequence([3] * 4097)


def test_bad_options_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(SchemeError, match="unknown memory format 'int8'"):
        load(checkpoint("t5"), memory="int8")
    with pytest.raises(SchemeError, match="unknown cache format 'int9'"):
        load(checkpoint("t5"), cache="int9")
    with pytest.raises(ModelError, match="expected an encoder with a decoder, got 'llama'"):
        load(checkpoint("llama"))


def test_one_side_alone_is_refused(checkpoint: Checkpoint) -> None:
    with open_model(checkpoint("t5")) as stored:
        weights = ModelWeights(stored)
        plan = make_encoder_decoder_plan(stored.config, weights)
        for side in (plan.encoder, plan.decoder):
            with pytest.raises(ModelError, match="expected a memory for one side of an encoder with a decoder, got none"):
                Engine(side, weights)
    engine = load(checkpoint("t5"))
    with pytest.raises(NumericsError, match="memory -1 is not alive"):
        engine._decoder.sequence()
