"""The native step against the oracle: every family, plain and packed, however the text is cut into steps and whatever else is in them."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kbit import native
from kbit.core.errors import LimitError, NumericsError, SchemeError, ShapeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.engine.plan import make_plan
from kbit.engine.reference import ReferenceEngine
from kbit.engine.weights import ModelWeights
from kbit.model import quantize_folder
from kbit.store.folder import open_model

from .conftest import Checkpoint, Pack
from .models import KINDS, difference, text

TOLERANCE = 2e-5
PLANS = {
    "nf4": Plan(Scheme.parse("nf4:g16"), embedding=Scheme.parse("int8:g16"), head=Scheme.parse("int8:g16")),
    "int3": Plan(Scheme.parse("int3:g32:asym"), embedding=Scheme.parse("int5:g-1:e4m3")),
}

Packed = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def packed(pack: Pack) -> Packed:
    return lambda kind, plan: pack(kind, PLANS[plan])


def text_for(kind: str, count: int, seed: int) -> list[int]:
    """A text that fits the context that is asked of the plan."""
    longest = KINDS[kind].context or KINDS[kind].settings.get("original_max_position_embeddings", count)
    return text(min(count, longest), seed=seed)


def load(folder: Path, kind: str, **options: Any) -> Engine:
    with open_model(folder) as stored:
        weights = ModelWeights(stored)
        options = {"mode": "exact", "cache": "fp32", "cache_positions": 4096, **options}
        return Engine(make_plan(stored.config, weights, KINDS[kind].context), weights, **options)


def expected(folder: Path, kind: str, tokens: list[int]) -> np.ndarray:
    with open_model(folder) as stored:
        weights = ModelWeights(stored)
        engine = ReferenceEngine(make_plan(stored.config, weights, KINDS[kind].context), weights)
        return engine.step([Feed(engine.sequence(), tokens, "all")])


def whole(engine: Engine, tokens: list[int]) -> np.ndarray:
    sequence = engine.sequence()
    try:
        return engine.step([Feed(sequence, tokens, "all")])
    finally:
        engine.free(sequence)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_a_mapped_file_computes_the_same(kind: str, packed: Packed) -> None:
    tokens = text_for(kind, 20, 5)
    found, wanted = (whole(Engine.load(packed(kind, "nf4"), mapped=mapped, cache_positions=64), tokens) for mapped in (True, False))
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_oracle(kind: str, checkpoint: Checkpoint) -> None:
    tokens = text_for(kind, 40, 3)
    assert difference(whole(load(checkpoint(kind), kind), tokens), expected(checkpoint(kind), kind, tokens)) < TOLERANCE


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_oracle_packed(kind: str, plan: str, packed: Packed) -> None:
    tokens = text_for(kind, 40, 4)
    folder = packed(kind, plan)
    assert difference(whole(load(folder, kind), tokens), expected(folder, kind, tokens)) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_fast_mode_stays_near(kind: str, packed: Packed) -> None:
    tokens = text_for(kind, 40, 5)
    found, exact = whole(load(packed(kind, "nf4"), kind, mode="fast"), tokens), expected(packed(kind, "nf4"), kind, tokens)
    # On the whole: a row whose two likeliest experts are nearly equal may be sent to another one.
    assert np.abs(found - exact).mean() < 0.01 * np.ptp(exact)


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.causal])
def test_a_row_depends_on_its_own_sequence_only(kind: str, mode: str, packed: Packed) -> None:
    engine = load(packed(kind, "nf4"), kind, mode=mode, cache="fp16", max_rows=16)
    first, second = text_for(kind, 32, 6), text_for(kind, 29, 7)
    alone = whole(engine, first)
    a, b = engine.sequence(), engine.sequence()
    rows = [engine.step([Feed(b, second[:3], "none"), Feed(a, first[:20], "all")])]
    rows += [engine.step([Feed(a, [token], "all"), Feed(b, second[3 + 2 * i : 5 + 2 * i], "none")]) for i, token in enumerate(first[20:])]
    assert np.array_equal(np.concatenate(rows), alone)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "bloom", "mixtral"])
@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_threads_and_instruction_sets_change_no_byte(kind: str, mode: str, packed: Packed) -> None:
    engine = load(packed(kind, "int3"), kind, mode=mode, cache="int8", threads=7)
    tokens = text_for(kind, 50, 8)
    before = native.isa()
    found = []
    try:
        for isa in native.available_isas():
            native.set_isa(isa)
            for threads in (1, 2, 3, 7):
                engine.threads = threads
                found.append(whole(engine, tokens))
    finally:
        native.set_isa(before)
    assert all(np.array_equal(other, found[0]) for other in found[1:])


@pytest.mark.parametrize(("cache", "tolerance"), [("fp16", 2e-3), ("int8", 2e-2), ("int4", 0.25), ("int3", 0.5)])
def test_cache_formats_stay_near(cache: str, tolerance: float, checkpoint: Checkpoint) -> None:
    tokens = text(60, seed=9)
    exact = whole(load(checkpoint("llama"), "llama"), tokens)
    error = difference(whole(load(checkpoint("llama"), "llama", cache=cache), tokens), exact)
    assert 0 < error < tolerance


def test_forks_share_a_prefix_and_part(packed: Packed) -> None:
    engine = load(packed("llama", "nf4"), "llama")
    prefix, left, right = text(35, seed=10), text(20, seed=11), text(20, seed=12)
    trunk = engine.sequence()
    engine.step([Feed(trunk, prefix, "none")])
    free = engine._cache.free_pages()
    a, b, c = engine.fork(trunk), engine.fork(trunk), engine.fork(trunk, 10)
    assert engine._cache.free_pages() == free
    both = engine.step([Feed(a, left, "last"), Feed(b, right, "last")])
    assert np.array_equal(both[0], whole(engine, prefix + left)[-1])
    assert np.array_equal(both[1], whole(engine, prefix + right)[-1])
    engine.free(trunk)
    assert np.array_equal(engine.step([Feed(c, left)])[0], whole(engine, prefix[:10] + left)[-1])
    engine.truncate(a, 12)
    assert np.array_equal(engine.step([Feed(a, right)])[0], whole(engine, prefix[:12] + right)[-1])
    for sequence in (a, b, c):
        engine.free(sequence)
    assert engine._cache.free_pages() == 4096 // 32


def test_long_feeds_go_in_pieces(packed: Packed) -> None:
    tokens = text(60, seed=13)
    pieces, at_once = load(packed("llama", "nf4"), "llama", max_rows=7), load(packed("llama", "nf4"), "llama", max_rows=64)
    assert np.array_equal(whole(pieces, tokens), whole(at_once, tokens))


def test_a_full_cache_refuses_and_changes_nothing(packed: Packed) -> None:
    engine = load(packed("llama", "nf4"), "llama", cache_positions=64)
    tokens = text(40, seed=14)
    a, b = engine.sequence(), engine.sequence()
    engine.step([Feed(a, tokens[:33], "none")])
    with pytest.raises(LimitError, match="no room in the cache"):
        engine.step([Feed(a, tokens[33:], "none"), Feed(b, [1], "none")])
    assert (engine.length(a), engine.length(b)) == (33, 0)
    assert engine._cache.free_pages() == 0
    assert np.array_equal(engine.step([Feed(a, tokens[33:])])[0], whole(load(packed("llama", "nf4"), "llama"), tokens)[-1])


def test_an_interrupted_step_changes_nothing(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(packed("llama", "nf4"), "llama", max_rows=8)
    tokens, sequence = text(30, seed=15), engine.sequence()
    run, calls = engine._calls, []

    def interrupted(feeds: Any) -> Any:
        for call in run(feeds):
            if calls:
                raise KeyboardInterrupt
            calls.append(call)
            yield call

    monkeypatch.setattr(engine, "_calls", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.step([Feed(sequence, tokens)])
    monkeypatch.undo()
    assert engine.length(sequence) == 0
    assert np.array_equal(engine.step([Feed(sequence, tokens)])[0], whole(engine, tokens)[-1])


def test_bad_input_is_refused(packed: Packed) -> None:
    folder = packed("llama", "nf4")
    for options in ({"mode": "quick"}, {"cache": "int9"}):
        with pytest.raises(SchemeError, match="unknown"):
            load(folder, "llama", **options)
    for options in ({"max_rows": 0}, {"max_rows": 5000}, {"cache_positions": 0}):
        with pytest.raises(ShapeError, match="expected"):
            load(folder, "llama", **options)
    engine = load(folder, "llama")
    sequence = engine.sequence()
    for call in (engine.length, engine.free, engine.fork):
        with pytest.raises(NumericsError, match="not alive"):
            call(99)
    with pytest.raises(ShapeError, match=r"length of 0…0"):
        engine.truncate(sequence, 1)
    with pytest.raises(ShapeError, match=r"length of 0…0"):
        engine.fork(sequence, -1)


def test_real_models_agree_with_the_oracle(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "models" / "stories260k"
    quantize_folder(source, tmp_path / "packed", "nf4:g64", progress=False)
    tokens = list(range(3, 103))
    for folder in (source, tmp_path / "packed"):
        engine = Engine.load(folder, mode="exact", cache="fp32", cache_positions=1024)
        with closing(open_model(folder)) as stored:
            weights = ModelWeights(stored)
            oracle = ReferenceEngine(make_plan(stored.config, weights), weights)
            answer = oracle.step([Feed(oracle.sequence(), tokens, "all")])
        assert difference(whole(engine, tokens), answer) < TOLERANCE
