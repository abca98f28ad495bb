"""Models with parts beside their packed matrices: the native step against the oracle, and against the same files run by transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch

import kbit.model
from kbit.core.errors import ModelError
from kbit.core.scheme import Plan, Scheme
from kbit.encoders import encode
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.engine.plan import make_plan
from kbit.engine.program_weights import rows_of
from kbit.engine.reference import ReferenceEngine
from kbit.engine.weights import ModelWeights
from kbit.store.folder import open_model

from .conftest import Pack
from .models import KINDS, answer, difference, text

TOLERANCE = 2e-5
PLANS = {
    "sides": Plan(
        Scheme.parse("nf4:g16+outlier2+outliercol3+lowrank5"),
        embedding=Scheme.parse("int8:g16+outlier1"),
        head=Scheme.parse("int8:g16+lowrank3"),
    ),
    "rotated": Plan(
        Scheme.parse("nf4:g16+rotate+outlier2+lowrank3"),
        embedding=Scheme.parse("int8:g16+rotate+outlier1"),
        rules=((r"k_proj|up_proj$|c_proj", Scheme.parse("int4:g16+outliercol3+lowrank2")), (r"v_proj", Scheme.parse("int4:g32+rotate"))),
    ),
    "pruned": Plan(Scheme.parse("nf4:g16+prune50+outlier1+lowrank2"), embedding=Scheme.parse("int4:g16+prune60")),
}
#: gated and fused inputs, biases, experts, tables that are both embedding and head
FAMILIES = ["llama", "llama_tied_biased", "gpt2", "mixtral", "qwen3_moe"]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_engine_is_the_reference(pack: Pack, kind: str, plan: str) -> None:
    folder, tokens = pack(kind, PLANS[plan]), text(19, seed=1)
    with open_model(folder) as stored:
        weights = ModelWeights(stored)
        forward = make_plan(stored.config, weights, KINDS[kind].context)
        reference = ReferenceEngine(forward, weights)
        expected = reference.step([Feed(reference.sequence(), tokens, "all")])
        engine, three = (Engine(forward, weights, mode="exact", cache="fp32", cache_positions=1024, threads=threads) for threads in (1, 3))
        fast = Engine(forward, weights, mode="fast", cache="fp32", cache_positions=1024)
    got = engine.step([Feed(engine.sequence(), tokens, "all")])
    assert difference(got, expected) < TOLERANCE
    one_by_one = engine.sequence()
    rows = [engine.step([Feed(one_by_one, [token], "all")]) for token in tokens]
    assert np.concatenate(rows).tobytes() == got.tobytes()
    assert three.step([Feed(three.sequence(), tokens, "all")]).tobytes() == got.tobytes()
    loose = fast.step([Feed(fast.sequence(), tokens, "all")])
    assert np.sqrt(np.square(loose - expected).mean()) < 0.2 * np.sqrt(np.square(expected).mean())  # int8 may turn a router's choice


@pytest.mark.parametrize("kind", ["llama_tied_biased", "gpt2", "mixtral"])
def test_transformers_run_the_same(pack: Pack, kind: str) -> None:
    folder, tokens = pack(kind, PLANS["sides"]), text(17)
    with torch.no_grad():
        packed = answer(kbit.model.load(folder, mode="exact", attn_implementation="eager"), tokens)
        decoded = answer(kbit.model.decode(folder), tokens)
    assert difference(packed, decoded) < TOLERANCE


def test_parts_cannot_be_cut_inside_a_tile() -> None:
    value = encode(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32), Scheme.parse("int4:g16+outlier2"))
    with pytest.raises(ModelError, match="its parts cannot be cut"):
        rows_of(value, 8, 40)


def test_saved_again_it_is_the_same(pack: Pack, tmp_path: Path) -> None:
    folder = pack("llama", PLANS["pruned"])
    kbit.model.load(folder).save_pretrained(tmp_path / "again")
    with open_model(folder) as first, open_model(tmp_path / "again") as second:
        assert first.manifest is not None
        for name in first.manifest.modules:
            one, other = first.quantized(name), second.quantized(name)
            assert {part: array.tobytes() for part, array in one.parts().items()} == {
                part: array.tobytes() for part, array in other.parts().items()
            }
