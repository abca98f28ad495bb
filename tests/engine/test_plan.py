import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kbit.core.errors import ModelError
from kbit.engine.ops import Attention, Embed, Experts, ForwardPlan, Heads, Linear, Normalize, Part, Select, WeightSlice
from kbit.engine.plan import make_plan
from kbit.engine.weights import ModelWeights
from kbit.store.folder import open_model

from .conftest import Checkpoint
from .models import CONTEXT, KINDS, VOCABULARY

Tensors = dict[str, torch.Tensor]


def planned(folder: Path, context: int | None = None, **changes: Any) -> ForwardPlan:
    with open_model(folder) as stored:
        return make_plan({**stored.config, **changes}, ModelWeights(stored), context)


def test_a_llama_is_seven_kinds_of_work(checkpoint: Checkpoint) -> None:
    plan = planned(checkpoint("llama"))
    layer = [Linear, Attention, Linear, Linear, Linear]
    assert [type(op) for op in plan.ops] == [Embed, *(3 * layer), Select, Linear]
    assert plan.buffers == {"x": 48, "qkv": 96, "mixed": 48, "inner": 80, "wanted": 48, "logits": VOCABULARY}
    assert (plan.result, plan.vocabulary, plan.context, plan.layers, plan.kv_heads, plan.head_dim) == (
        "logits",
        VOCABULARY,
        CONTEXT,
        3,
        2,
        12,
    )
    assert plan.causal
    qkv, attention = plan.ops[6], plan.ops[7]
    assert isinstance(qkv, Linear)
    assert isinstance(attention, Attention)
    assert qkv.parts == tuple(
        Part(WeightSlice(f"model.layers.1.self_attn.{name}_proj"), None, at) for name, at in (("q", 0), ("k", 48), ("v", 72))
    )
    assert (attention.layer, attention.q, attention.k, attention.v) == (1, Heads("qkv", 0, 12), Heads("qkv", 48, 12), Heads("qkv", 72, 12))
    assert attention.scale == pytest.approx(12**-0.5)


def test_parallel_sublayers_read_before_either_writes(checkpoint: Checkpoint) -> None:
    ops = planned(checkpoint("gpt_neox")).ops
    assert [(type(op), op.out) for op in ops[1:6] if not isinstance(op, Select)] == [
        (Linear, "qkv"), (Attention, "mixed"), (Linear, "inner"), (Linear, "x"), (Linear, "x"),
    ]  # fmt: skip
    attention = ops[2]
    assert isinstance(attention, Attention)
    assert (attention.q, attention.k, attention.v) == (Heads("qkv", 0, 36), Heads("qkv", 12, 36), Heads("qkv", 24, 36))


def test_norms_stand_where_the_family_has_them(checkpoint: Checkpoint) -> None:
    def norms(name: str) -> list[tuple[str, str, bool]]:
        return [(op.source, op.out, op.accumulate) for op in planned(checkpoint(name)).ops[:9] if isinstance(op, Normalize)]

    assert norms("llama") == []
    assert norms("gemma2") == [("y", "x", True)] * 2
    assert norms("opt_350m") == [("x", "x", False)]
    assert norms("bloom") == [("x", "x", False)]
    assert norms("bloom_residual") == [("x", "x", False)] * 3


def test_mixtures_are_where_the_configuration_says(checkpoint: Checkpoint) -> None:
    ops = planned(checkpoint("qwen3_moe")).ops
    mixtures = [op for op in ops if isinstance(op, Experts)]
    assert [op.gate_up for op in mixtures] == ["model.layers.1.mlp.experts.gate_up_proj"]
    assert (mixtures[0].experts, mixtures[0].top_k, mixtures[0].normalize, mixtures[0].accumulate) == (6, 3, False, True)


def test_encoders_end_with_what_they_have(checkpoint: Checkpoint) -> None:
    hidden, masked = planned(checkpoint("bert")), planned(checkpoint("bert_masked"))
    assert (hidden.result, hidden.causal) == ("wanted", False)
    assert isinstance(hidden.ops[-1], Select)
    assert (masked.result, masked.buffers["logits"]) == ("logits", VOCABULARY)


@pytest.mark.parametrize("name", KINDS)
def test_buffers_are_all_used(name: str, checkpoint: Checkpoint) -> None:
    plan = planned(checkpoint(name), KINDS[name].context)
    assert {op.out for op in plan.ops} == set(plan.buffers)
    assert plan.result in plan.buffers
    assert sorted(op.layer for op in plan.ops if isinstance(op, Attention)) == list(range(plan.layers))


# ---- contexts


def test_a_context_may_be_smaller_than_the_models(checkpoint: Checkpoint) -> None:
    assert planned(checkpoint("llama"), 10).context == 10
    assert planned(checkpoint("bloom"), 10).context == 10
    with pytest.raises(ModelError, match="llama: expected a context of at most 64 positions, got 65"):
        planned(checkpoint("llama"), 65)
    with pytest.raises(ModelError, match="llama: expected a context of at least 1 position, got 0"):
        planned(checkpoint("llama"), 0)


def test_long_rotations_are_taken_for_long_contexts_only(checkpoint: Checkpoint) -> None:
    folder = checkpoint("phi3_short")
    assert planned(folder).context == 32
    assert planned(folder, 20).context == 20
    assert planned(folder, 33).context == 33
    rotations = {context: next(op.rotary for op in planned(folder, context).ops if isinstance(op, Attention)) for context in (None, 32, 33)}
    assert rotations[None] == rotations[32] != rotations[33]
    with pytest.raises(ModelError, match="phi3: expected a context of at most 64 positions, got 65"):
        planned(folder, 65)


# ---- refusals


def test_other_quantizations_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match="'quantization_config': expected a model that kbit packed, or one in 16 or 32 bits, got 'gptq'"):
        planned(checkpoint("llama"), quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match="'quantization_config'"):
        planned(checkpoint("llama"), quantization_config="int4")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"vocab_size": 98}, r"'model.embed_tokens': expected shape \[98, 48\], got \[97, 48\]"),
        ("llama", {"intermediate_size": 96}, r"'model.layers.0.mlp.gate_proj': expected shape \[96, 48\], got \[80, 48\]"),
        ("llama", {"num_key_value_heads": 1}, r"'model.layers.0.self_attn.k_proj': expected shape \[12, 48\], got \[24, 48\]"),
        ("llama", {"num_hidden_layers": 4}, r"expected 'model.layers.3.input_layernorm.weight' of shape \[48\], got no such tensor"),
        ("llama", {"attention_bias": True}, r"expected 'model.layers.0.self_attn.q_proj.bias' of shape \[48\], got no such tensor"),
        ("llama", {"model_type": "qwen3", "head_dim": 12}, r"expected 'model.layers.0.self_attn.q_norm.weight' of shape \[12\]"),
        ("gpt2", {"n_positions": 65}, r"'transformer.wpe': expected shape \[65, 48\], got \[64, 48\]"),
        ("gpt2", {"n_inner": 80}, r"'transformer.h.0.mlp.c_fc': expected shape \[48, 80\], got \[48, 192\]"),
        ("mixtral", {"num_local_experts": 6}, r"gate': expected shape \[6, 48\], got \[5, 48\]"),
        ("mixtral", {"intermediate_size": 40}, r"experts.gate_up_proj': expected shape \[5, 80, 48\], got \[5, 160, 48\]"),
        ("opt_350m", {"word_embed_proj_dim": 48}, r"'model.decoder.embed_tokens': expected shape \[97, 48\], got \[97, 20\]"),
        ("roberta", {"max_position_embeddings": 60}, r"'embeddings.position_embeddings': expected shape \[60, 48\], got \[64, 48\]"),
    ],
)  # fmt: skip
def test_weights_that_contradict_the_configuration_are_refused(
    name: str, changes: dict[str, Any], message: str, checkpoint: Checkpoint
) -> None:
    with pytest.raises(ModelError, match=message):
        planned(checkpoint(name), **changes)


def without(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("llama", "lm_head.weight"),
        ("llama", "model.norm.weight"),
        ("llama", "model.layers.2.self_attn.o_proj.weight"),
        ("llama_tied_biased", "model.embed_tokens.weight"),
        ("gpt2", "transformer.h.1.mlp.c_proj.bias"),
        ("gemma3", "model.layers.0.post_feedforward_layernorm.weight"),
        ("phi", "lm_head.bias"),
        ("bert_masked", "cls.predictions.bias"),
        ("bert_masked", "cls.predictions.transform.LayerNorm.weight"),
        ("bloom", "transformer.word_embeddings_layernorm.bias"),
    ],
)
def test_missing_weights_are_refused(name: str, missing: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    shutil.copytree(checkpoint(name), tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[missing]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"of shape \[.*\], got no such tensor") as raised:
        planned(tmp_path)
    assert missing.removesuffix(".weight").rpartition("predictions.")[2].split(".")[-1] in str(raised.value)
