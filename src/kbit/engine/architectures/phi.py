"""Phi 1, 1.5 and 2: attention and feed-forward layer side by side; Phi 3: Llama with fused matrices and rotations for long texts."""

from dataclasses import replace

from kbit.engine.architectures.blocks import FeedForward, HeadSizes, Join, Layer, Matrix, NormLayer, SelfAttention, Table
from kbit.engine.architectures.decoder import SPELLINGS, Decoder, decoder_model
from kbit.engine.architectures.model import Architecture, Embedding, Head
from kbit.engine.architectures.parts import read_heads, separate, side_by_side
from kbit.engine.architectures.rope import RopeDialect, read_rope
from kbit.engine.architectures.settings import Settings
from kbit.engine.ops import Rotary

__all__ = ["phi", "phi3"]


def phi3(settings: Settings) -> Architecture:
    """Phi 3 and 3.5 (Abdin et al. 2024)."""
    heads, activation = read_heads(settings), settings.activation("hidden_act", default="silu")
    decoder = Decoder(heads, activation, settings.number("rms_norm_eps", default=1e-5))
    # "su" is what longrope was called first, and the first Phi 3 files say "yarn" and mean it too
    rope = read_rope(settings, heads.head_dim, RopeDialect(renamed={"su": "longrope", "yarn": "longrope"}))
    window = settings.optional_integer("sliding_window")
    layers = []
    for index in settings.layers():
        name = f"model.layers.{index}"
        attention = decoder.attention(f"{name}.self_attn", rope.rotary, window)
        attention = replace(attention, inputs=side_by_side(f"{name}.self_attn.qkv_proj", heads, bias=False))
        layers.append(decoder.layer(index, attention, _fused_feed(settings, decoder, f"{name}.mlp")))
    return decoder_model(settings, decoder, layers, rope.context)


def phi(settings: Settings) -> Architecture:
    """Phi 1 to 2 (Gunasekar et al. 2023): both sublayers read the same norm."""
    heads = read_heads(settings)
    rope = read_rope(settings, heads.head_dim, RopeDialect(partial=0.5))
    vocabulary = settings.integer("vocab_size")
    matrix = Matrix("lm_head", vocabulary, heads.size, bias=True)
    return Architecture(
        name=settings.name,
        embedding=Embedding(Table("model.embed_tokens", vocabulary, heads.size)),
        layers=tuple(_layer(settings, heads, rope.rotary, index) for index in settings.layers()),
        head=Head(_norm(settings, "model.final_layernorm", heads.size), matrix, settings.flag("tie_word_embeddings", default=False)),
        size=heads.size,
        context=rope.context,
        spellings=SPELLINGS,
    )


def _fused_feed(settings: Settings, decoder: Decoder, name: str) -> FeedForward:
    width, size = settings.integer("intermediate_size"), decoder.heads.size
    gate, up = (Matrix(f"{name}.gate_up_proj", 2 * width, size, begin=at, end=at + width) for at in (0, width))
    return FeedForward((gate, up), Matrix(f"{name}.down_proj", size, width), decoder.activation)


def _layer(settings: Settings, heads: HeadSizes, rotary: Rotary, index: int) -> Layer:
    name, size, width = f"model.layers.{index}", heads.size, settings.integer("intermediate_size")
    join = Join("pre", _norm(settings, f"{name}.input_layernorm", size))
    feed = FeedForward(
        (Matrix(f"{name}.mlp.fc1", width, size, bias=True),),
        Matrix(f"{name}.mlp.fc2", size, width, bias=True),
        settings.activation("hidden_act", default="gelu_new"),
    )
    return Layer(_attention(settings, heads, rotary, f"{name}.self_attn"), join, feed, join, parallel=True)


def _attention(settings: Settings, heads: HeadSizes, rotary: Rotary, name: str) -> SelfAttention:
    normed = settings.flag("qk_layernorm", default=False)
    return SelfAttention(
        inputs=separate((f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"), heads, bias=True),
        output=Matrix(f"{name}.dense", heads.size, heads.q_rows, bias=True),
        sizes=heads,
        scale=heads.scale,
        rotary=rotary,
        q_norm=_norm(settings, f"{name}.q_layernorm", heads.head_dim) if normed else None,
        k_norm=_norm(settings, f"{name}.k_layernorm", heads.head_dim) if normed else None,
    )


def _norm(settings: Settings, name: str, size: int) -> NormLayer:
    return NormLayer(name, size, "layer", settings.number("layer_norm_eps", default=1e-5), bias=True)
