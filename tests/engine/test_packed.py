"""Models that kbit packed: the reference engine against the same files run by transformers with kbit's layers in exact mode."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import kbit.model
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.engine.feeds import Feed
from kbit.engine.program_weights import rows_of
from kbit.engine.weights import ModelWeights
from kbit.model import quantize_folder
from kbit.store.folder import open_model
from kbit.store.verify import verify

from .conftest import Checkpoint, Engines
from .models import KINDS, answer, build, difference, save, text

TOLERANCE = 1e-5

#: everything packed, embeddings and head too
NF4 = Plan(Scheme.parse("nf4:g16"), embedding=Scheme.parse("int8:g16"), head=Scheme.parse("int6:g-1"))
#: the same as paths through a trellis
TRELLIS = Plan(Scheme.parse("trellis3:g16"), embedding=Scheme.parse("trellis4:g16"), head=Scheme.parse("trellis4:g-1"))
#: the usual recipe: embeddings and head in 16 bits
INT8 = Plan(Scheme.parse("int8:g32:asym"))


@pytest.mark.parametrize("name", KINDS)
def test_packed_models_agree(name: str, checkpoint: Checkpoint, engines: Engines, tmp_path: Path) -> None:
    quantize_folder(checkpoint(name), tmp_path / "packed", NF4, progress=False)
    assert packed_difference(name, tmp_path / "packed", engines) < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "llama_tied_biased", "gpt2", "qwen3_moe", "bert_masked"])
def test_models_with_plain_embeddings_agree(name: str, checkpoint: Checkpoint, engines: Engines, tmp_path: Path) -> None:
    quantize_folder(checkpoint(name), tmp_path / "packed", INT8, progress=False)
    assert packed_difference(name, tmp_path / "packed", engines) < TOLERANCE


@pytest.mark.parametrize("name", ["llama_tied_biased", "gpt2", "mixtral"])
def test_trellises_agree_and_verify(name: str, checkpoint: Checkpoint, engines: Engines, tmp_path: Path) -> None:
    quantize_folder(checkpoint(name), tmp_path / "packed", TRELLIS, progress=False)
    assert verify(tmp_path / "packed").ok
    assert packed_difference(name, tmp_path / "packed", engines) < TOLERANCE


@pytest.mark.parametrize("scheme", ["trellis3:g16", "nf3:g16", "vq2d3:g-1", "nvq2.5d2:g64"])
def test_cut_rows_are_those_rows(scheme: str) -> None:
    weights = np.random.default_rng(0).standard_normal((50, 70)).astype(np.float32)
    whole = encode(weights, Scheme.parse(scheme))
    np.testing.assert_array_equal(rows_of(whole, 5, 39).dequantize(), whole.dequantize()[5:39])


@pytest.mark.parametrize("name", ["llama_tied_biased", "qwen3_moe", "gpt2"])
def test_vector_codebooks_beside_others_agree(name: str, checkpoint: Checkpoint, engines: Engines, tmp_path: Path) -> None:
    plan = Plan(
        Scheme.parse("vq2d3:g-1"),
        embedding=Scheme.parse("vq3d2:g-1"),
        rules=(("(k|up)_proj", Scheme.parse("nf4:g16")), ("v_proj", Scheme.parse("vq2.5d2:g-1"))),
    )
    quantize_folder(checkpoint(name), tmp_path / "packed", plan, progress=False)
    assert packed_difference(name, tmp_path / "packed", engines) < TOLERANCE


def load(cls: str, folder: Path) -> nn.Module:
    """A checkpoint by a class of transformers, in float32."""
    model: nn.Module = getattr(transformers, cls).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model


def packed_difference(name: str, folder: Path, engines: Engines) -> float:
    tokens = text(17)
    with torch.no_grad():
        expected = answer(kbit.model.load(folder, mode="exact", attn_implementation="eager"), tokens)
    engine = engines(folder, KINDS[name].context)
    return difference(engine.step([Feed(engine.sequence(), tokens, "all")]), expected)


def test_expert_layers_may_be_packed_in_part(checkpoint: Checkpoint, engines: Engines, tmp_path: Path) -> None:
    plan = Plan(Scheme.parse("int8:g16"), skip=(r"layers\.1\.mlp\.experts\.down_proj", r"layers\.0\.mlp\.experts\.gate_up"))
    quantize_folder(checkpoint("mixtral"), tmp_path / "packed", plan, progress=False)
    with open_model(tmp_path / "packed") as stored:
        weights = ModelWeights(stored)
        schemes = {name: weights.info(name, shape).scheme for name, shape in (
            ("model.layers.0.mlp.experts.gate_up_proj", (5, 160, 48)), ("model.layers.0.mlp.experts.down_proj", (5, 48, 80)),
            ("model.layers.1.mlp.experts.gate_up_proj", (5, 160, 48)), ("model.layers.1.mlp.experts.down_proj", (5, 48, 80)),
        )}  # fmt: skip
    assert [scheme is None for scheme in schemes.values()] == [True, False, False, True]
    assert packed_difference("mixtral", tmp_path / "packed", engines) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama_tied_biased", "gpt2", "mixtral"])
def test_half_precision_shards_agree(name: str, dtype: torch.dtype, engines: Engines, tmp_path: Path) -> None:
    save(build(name).to(dtype), tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    engine, tokens = engines(tmp_path), text(17)
    model = load(KINDS[name].cls, tmp_path)
    assert difference(engine.step([Feed(engine.sequence(), tokens, "all")]), answer(model, tokens)) < TOLERANCE


@pytest.mark.parametrize("name", ["quill-0.4m", "quill-4.5m", "stories260k"])
def test_real_models_agree(name: str, shared_data: Path, engines: Engines) -> None:
    folder = shared_data / "models" / name
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    model = load("AutoModelForCausalLM", folder)
    tokens = [int(token) for token in torch.randint(3, model.config.vocab_size, (40,), generator=torch.Generator().manual_seed(0))]
    engine = engines(folder)
    assert difference(engine.step([Feed(engine.sequence(), tokens, "all")]), answer(model, tokens)) < TOLERANCE
