"""Models with parts beside their packed matrices: the native step against the oracle, and against the same files run by transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch

import kbit.model
from kbit.core.errors import ModelError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.engine.program_weights import rows_of
from kbit.store.folder import open_model

from .conftest import Pack, check_packed_engine
from .models import answer, difference, text

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
    check_packed_engine(pack(kind, PLANS[plan]), kind, text(19, seed=1), TOLERANCE)


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
