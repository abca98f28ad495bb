"""Gemma 1 to 3: embeddings times √width, norms that store w − 1; from Gemma 2 on, norms around each sublayer and windows in some layers."""

import numpy as np

from kbit.engine.architectures.blocks import HeadSizes, Join, Layer, SelfAttention
from kbit.engine.architectures.decoder import Decoder, decoder_model
from kbit.engine.architectures.model import Architecture
from kbit.engine.architectures.parts import read_heads, windows
from kbit.engine.architectures.rope import RopeDialect, read_rope
from kbit.engine.architectures.settings import Settings
from kbit.engine.ops import Activation

__all__ = ["gemma", "gemma2", "gemma3_text"]


def gemma(settings: Settings) -> Architecture:
    """Gemma (Mesnard et al. 2024). Its first configurations say "gelu" and mean the tanh approximation that it was trained with."""
    activation = settings.activation("hidden_act", default="gelu_pytorch_tanh")
    decoder = _decoder(settings, read_heads(settings, kv_heads=16, head_dim=256), "gelu_tanh" if activation == "gelu" else activation)
    rope = read_rope(settings, decoder.heads.head_dim)
    width = settings.integer("intermediate_size")
    layers = []
    for index in settings.layers():
        name = f"model.layers.{index}"
        layers.append(decoder.layer(index, decoder.attention(f"{name}.self_attn", rope.rotary), decoder.feed(f"{name}.mlp", width)))
    return decoder_model(settings, decoder, layers, rope.context, tied=True, embedding_scale=_scale(decoder.heads))


def gemma2(settings: Settings) -> Architecture:
    """Gemma 2 (Rivière et al. 2024): every other layer has a window; scores and logits are capped."""
    heads = read_heads(settings, kv_heads=4, head_dim=256)
    softcap = settings.optional_number("attn_logit_softcapping", default=50.0)
    decoder = _decoder(settings, heads, _activation(settings), scale=_query_scale(settings), softcap=softcap)
    rope = read_rope(settings, heads.head_dim)
    pattern = tuple("full_attention" if index % 2 else "sliding_attention" for index in settings.layers())
    layers = [
        _sandwich(settings, decoder, index, decoder.attention(f"model.layers.{index}.self_attn", rope.rotary, window))
        for index, window in enumerate(windows(settings, pattern))
    ]
    softcap = settings.optional_number("final_logit_softcapping", default=30.0)
    return decoder_model(settings, decoder, layers, rope.context, tied=True, embedding_scale=_scale(heads), softcap=softcap)


def gemma3_text(settings: Settings) -> Architecture:
    """Gemma 3: a norm over each head, and two rotations, one for layers with a window and one for those that see everything."""
    settings.only("attn_logit_softcapping", None)
    heads = read_heads(settings, kv_heads=4, head_dim=256)
    decoder = _decoder(settings, heads, _activation(settings), scale=_query_scale(settings), qk_norm=True)
    local = read_rope(settings, heads.head_dim, RopeDialect(theta_key="rope_local_base_freq"), "sliding_attention")
    everywhere = read_rope(settings, heads.head_dim, RopeDialect(theta=1_000_000.0), "full_attention")
    period = settings.integer("sliding_window_pattern", default=6)
    pattern = tuple("sliding_attention" if (index + 1) % period else "full_attention" for index in settings.layers())
    layers = []
    for index, window in enumerate(windows(settings, pattern)):
        rope = everywhere if window is None else local
        layers.append(_sandwich(settings, decoder, index, decoder.attention(f"model.layers.{index}.self_attn", rope.rotary, window)))
    softcap = settings.optional_number("final_logit_softcapping")
    return decoder_model(settings, decoder, layers, everywhere.context, tied=True, embedding_scale=_scale(heads), softcap=softcap)


def _decoder(
    settings: Settings,
    heads: HeadSizes,
    activation: Activation,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    qk_norm: bool = False,
) -> Decoder:
    settings.only("use_bidirectional_attention", False)
    bias, eps = settings.flag("attention_bias", default=False), settings.number("rms_norm_eps", default=1e-6)
    return Decoder(
        heads, activation, eps, plus_one=True, qkv_bias=bias, output_bias=bias, qk_norm=qk_norm, scale=scale, softcap=softcap
    )  # fmt: skip


def _sandwich(settings: Settings, decoder: Decoder, index: int, attention: SelfAttention) -> Layer:
    """A layer with a norm before and after each sublayer."""
    name = f"model.layers.{index}"
    joins = (
        Join("sandwich", decoder.norm(f"{name}.{before}_layernorm"), decoder.norm(f"{name}.{after}_layernorm"))
        for before, after in (("input", "post_attention"), ("pre_feedforward", "post_feedforward"))
    )
    return Layer(attention, next(joins), decoder.feed(f"{name}.mlp", settings.integer("intermediate_size")), next(joins))


def _activation(settings: Settings) -> Activation:
    return settings.activation("hidden_activation", default="gelu_pytorch_tanh")


def _query_scale(settings: Settings) -> float:
    return float(settings.number("query_pre_attn_scalar", default=256) ** -0.5)


def _scale(heads: HeadSizes) -> float:
    """√width, in float32 as transformers multiplies with it."""
    return float(np.float32(heads.size**0.5))
