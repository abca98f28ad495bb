import pytest

from kbit.engine.listing import plan_text
from kbit.engine.plan import make_plan
from kbit.engine.weights import ModelWeights
from kbit.store.folder import open_model

from .conftest import Checkpoint

LLAMA = """\
llama, decoder: vocabulary 97, 64 positions, 3 layers of 2 heads of 12; answers with logits
buffers: x 48, qkv 96, mixed 48, inner 80, wanted 48, logits 97
 0  embed      token → x        model.embed_tokens 97×48 f32
 1  linear     x → qkv          rms norm model.layers.0.input_layernorm, model.layers.0.self_attn.q_proj 48×48 f32, …k_proj 24×48 f32, …v_proj 24×48 f32
 2  attention  qkv → mixed      layer 0, 4 heads on 2 of 12, rotary 12
 3  linear     mixed → +x       model.layers.0.self_attn.o_proj 48×48 f32
 4  linear     x → inner        rms norm model.layers.0.post_attention_layernorm, model.layers.0.mlp.gate_proj 80×48 f32, …up_proj 80×48 f32, silu, gated
 5  linear     inner → +x       model.layers.0.mlp.down_proj 48×80 f32
"""  # noqa: E501

LINES = {
    "llama": "linear     wanted → logits  rms norm model.norm, lm_head 97×48 f32",
    "gemma2": (
        "embed      token → x        model.embed_tokens 97×48 f32, times 6.9282\n"
        "attention  qkv → mixed      layer 0, 4 heads on 2 of 16, rotary 16, window 5, capped at 1.5\n"
        "normalize  y → +x           rms norm model.layers.0.post_attention_layernorm plus one\n"
        "linear     wanted → logits  rms norm model.norm plus one, model.embed_tokens 97×48 f32, capped at 2.5"
    ),
    "phi3": "model.layers.0.mlp.gate_up_proj 160×48 f32 rows 0…80, …gate_up_proj 160×48 f32 rows 80…160, silu, gated",
    "granite": "linear     inner → +x       model.layers.0.mlp.down_proj 48×80 f32 + bias, times 0.6",
    "mixtral": (
        "experts    x → +x           rms norm model.layers.0.post_attention_layernorm, model.layers.0.block_sparse_moe.gate 5×48 f32, "
        "model.layers.0.block_sparse_moe.experts.gate_up_proj 5×160×48 f32, "
        "model.layers.0.block_sparse_moe.experts.down_proj 5×48×80 f32, 2 of 5 experts, silu"
    ),
    "gpt2": "linear     x → qkv          layer norm transformer.h.0.ln_1 + bias, transformer.h.0.attn.c_attn 48×144 f32 transposed + bias",
    "opt_projected": (
        "embed      position → +x    model.decoder.embed_positions 66×48 f32, from row 2\n"
        "linear     x → qkv          layer norm without weight, model.decoder.layers.0.self_attn.q_proj 48×48 f32"
    ),
    "bloom": "bloom, decoder: vocabulary 97, positions without limit, 3 layers of 4 heads of 12; answers with logits\n"
    "attention  qkv → mixed      layer 0, 4 heads on 4 of 12, alibi",
    "qwen3": "attention  qkv → mixed      layer 0, 4 heads on 2 of 20, rotary 20, window 4, "
    "queries: rms norm model.layers.0.self_attn.q_norm, keys: rms norm model.layers.0.self_attn.k_norm",
    "bert": "bert, encoder: vocabulary 97, 64 positions, 3 layers of 4 heads of 12; answers with wanted\n"
    "attention  qkv → mixed    layer 0, 4 heads on 4 of 12, both ways\nselect     x → wanted     wanted rows",
}


def listing(name: str, checkpoint: Checkpoint) -> str:
    with open_model(checkpoint(name)) as stored:
        weights = ModelWeights(stored)
        return plan_text(make_plan(stored.config, weights), weights)


def test_a_plan_reads_from_top_to_bottom(checkpoint: Checkpoint) -> None:
    assert listing("llama", checkpoint).startswith(LLAMA)


@pytest.mark.parametrize("name", LINES)
def test_lines_say_what_matters(name: str, checkpoint: Checkpoint) -> None:
    text = " ".join(listing(name, checkpoint).split())  # columns are as wide as their longest word
    for line in LINES[name].split("\n"):
        assert " ".join(line.split()) in text
