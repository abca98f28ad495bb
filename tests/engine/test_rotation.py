"""Matrices that rotate their inputs in the native step, against the oracle and transformers, neither of which rotates anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kbit import native
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.engine import Engine
from kbit.engine.engine_pair import EncoderDecoderEngine
from kbit.engine.feeds import Feed
from kbit.engine.listing import plan_text
from kbit.engine.plan import make_plan
from kbit.engine.weights import ModelWeights
from kbit.model import decode
from kbit.store.folder import open_model

from .conftest import Engines, Pack, Pairs
from .models import KINDS, PAIRS, answer, answer_pair, difference, text

TOLERANCE = 2e-5
#: 48 and 80 inputs are rotated in blocks of 16; widths of 40 are not
ROTATED = Plan(Scheme.parse("nf4:g16+rotate"), embedding=Scheme.parse("int8:g16+rotate"), head=Scheme.parse("int6:g-1+rotate"))
#: matrices of one input that want it in different forms
MIXED = Plan(
    Scheme.parse("int4:g16+rotate"),
    rules=((r"k_proj|up_proj$|down_proj$|c_proj|wi_1", Scheme.parse("int4:g16")), (r"v_proj", Scheme.parse("int4:g32+rotate"))),
)
PLANS = {"rotated": ROTATED, "mixed": MIXED}
DECODERS = ["llama_tied_biased", "gemma2", "phi3", "gpt2", "gptj", "bloom", "opt_projected", "mixtral", "qwen3_moe"]

Packed = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def packed(pack: Pack) -> Packed:
    return lambda kind, plan: pack(kind, PLANS[plan], fold="none")


def load(folder: Path, kind: str, **options: Any) -> Engine:
    with open_model(folder) as stored:
        weights = ModelWeights(stored)
        options = {"mode": "exact", "cache": "fp32", "cache_positions": 4096, **options}
        return Engine(make_plan(stored.config, weights, KINDS[kind].context), weights, **options)


def whole(engine: Any, tokens: list[int], *source: list[int]) -> np.ndarray:
    sequence = engine.sequence(*source)
    try:
        return np.asarray(engine.step([Feed(sequence, tokens, "all")]))
    finally:
        engine.free(sequence)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", [*DECODERS, "bert_masked"])
def test_agrees_with_the_oracle_and_with_transformers(kind: str, plan: str, packed: Packed, engines: Engines) -> None:
    folder, tokens = packed(kind, plan), text(30, seed=1)
    found = whole(load(folder, kind), tokens)
    assert difference(found, whole(engines(folder, KINDS[kind].context), tokens)) < TOLERANCE
    model = decode(folder)
    model.set_attn_implementation("eager")
    assert difference(found, answer(model.float(), tokens)) < TOLERANCE
    near = whole(load(folder, kind, mode="fast"), tokens)
    assert np.abs(near - found).mean() < 0.01 * np.ptp(found)


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["llama", "gemma2", "mixtral"])
def test_threads_instruction_sets_and_steps_change_no_byte(kind: str, plan: str, mode: str, packed: Packed) -> None:
    engine = load(packed(kind, plan), kind, mode=mode, cache="int8", threads=5)
    tokens = text(33, seed=8)
    before, found = native.isa(), []
    try:
        for isa in native.available_isas():
            native.set_isa(isa)
            for threads in (1, 2, 5):
                engine.threads = threads
                found.append(whole(engine, tokens))
        sequence = engine.sequence()  # a row alone is prepared by each worker for itself
        found.append(np.concatenate([engine.step([Feed(sequence, [token])]) for token in tokens]))
    finally:
        native.set_isa(before)
    assert all(np.array_equal(other, found[0]) for other in found[1:])


@pytest.mark.parametrize("name", ["t5_gated", "bart", "marian"])
@pytest.mark.parametrize("plan", PLANS)
def test_encoders_with_a_decoder(name: str, plan: str, pack: Pack, pairs: Pairs) -> None:
    folder, source, into = pack(name, PLANS[plan]), text(25, 1), text(17, 2)
    options = {"mode": "exact", "cache": "fp32", "memory": "fp32", "cache_positions": 4096, "memory_positions": 4096}
    found = whole(EncoderDecoderEngine.load(folder, **options), into, source)
    assert difference(found, whole(pairs(folder), into, source)) < TOLERANCE
    assert PAIRS[name].cls
    model = decode(folder).float()
    model.set_attn_implementation("eager")
    assert difference(found, answer_pair(model, source, into)) < TOLERANCE


def test_the_listing_says_what_is_rotated(packed: Packed) -> None:
    for plan, words in (
        ("rotated", "input_layernorm, rotated in blocks of 16, model.layers.0.self_attn.q_proj 48×48 nf4:g16+rotate, …k_proj"),
        (
            "mixed",
            "post_attention_layernorm, rotated in blocks of 16 for 1 of 2, model.layers.0.mlp.gate_proj 80×48 int4:g16+rotate, …up_proj",
        ),
    ):
        with open_model(packed("llama", plan)) as stored:
            weights = ModelWeights(stored)
            listing = plan_text(make_plan(stored.config, weights), weights)
        assert words in listing


def test_real_models_agree(shared_data: Path, tmp_path: Path) -> None:
    from kbit.model import quantize_folder

    folder = shared_data / "models" / "quill-0.4m"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    quantize_folder(folder, tmp_path / "packed", "int4:g64+rotate", fold="none", progress=False)
    model = decode(tmp_path / "packed").float()
    tokens = [int(token) for token in torch.randint(3, model.config.vocab_size, (60,), generator=torch.Generator().manual_seed(0))]
    found = whole(Engine.load(tmp_path / "packed", mode="exact", cache="fp32", cache_positions=64), tokens)
    expected = answer(model, tokens)
    assert float(np.abs(found - expected).max() / np.abs(expected).max()) < 1e-3
