"""GPT-J (Wang and Komatsuzaki 2021): parallel sublayers on one norm, neighbouring pairs of the first `rotary_dim` dimensions rotated."""

from dataclasses import replace

from kbit.engine.architectures.blocks import FeedForward, HeadSizes, Join, Layer, Matrix, NormLayer, SelfAttention, Table
from kbit.engine.architectures.model import Architecture, Embedding, Head
from kbit.engine.architectures.parts import read_heads, separate
from kbit.engine.architectures.rope import plain_rotary
from kbit.engine.architectures.settings import Settings
from kbit.engine.ops import Rotary

__all__ = ["gptj"]


def gptj(settings: Settings) -> Architecture:
    """GPT-J. Its own code fills positions beyond `n_positions` with nothing, so that is the context."""
    heads, vocabulary = read_heads(settings), settings.integer("vocab_size")
    dims = settings.integer("rotary_dim", default=64, least=2)
    if dims > heads.head_dim or dims % 2:
        raise settings.error(("rotary_dim",), f"an even number of at most {heads.head_dim} dimensions of a head", dims)
    rotary = replace(plain_rotary(10_000.0, dims), interleaved=True)
    matrix = Matrix("lm_head", vocabulary, heads.size, bias=True)
    return Architecture(
        name=settings.name,
        embedding=Embedding(Table("transformer.wte", vocabulary, heads.size)),
        layers=tuple(_layer(settings, heads, rotary, index) for index in settings.layers("n_layer", "num_hidden_layers")),
        head=Head(_norm(settings, "transformer.ln_f", heads.size), matrix, settings.flag("tie_word_embeddings", default=False)),
        size=heads.size,
        context=settings.integer("n_positions", "max_position_embeddings"),
        spellings=(("transformer.", ""),),
    )


def _layer(settings: Settings, heads: HeadSizes, rotary: Rotary, index: int) -> Layer:
    name, size = f"transformer.h.{index}", heads.size
    width = settings.integer("n_inner", "intermediate_size", default=4 * size)
    join = Join("pre", _norm(settings, f"{name}.ln_1", size))
    feed = FeedForward(
        (Matrix(f"{name}.mlp.fc_in", width, size, bias=True),),
        Matrix(f"{name}.mlp.fc_out", size, width, bias=True),
        settings.activation("activation_function", default="gelu_new"),
    )
    return Layer(_attention(heads, rotary, f"{name}.attn"), join, feed, join, parallel=True)


def _attention(heads: HeadSizes, rotary: Rotary, name: str) -> SelfAttention:
    return SelfAttention(
        inputs=separate((f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"), heads, bias=False),
        output=Matrix(f"{name}.out_proj", heads.size, heads.q_rows),
        sizes=heads,
        scale=heads.scale,
        rotary=rotary,
    )


def _norm(settings: Settings, name: str, size: int) -> NormLayer:
    return NormLayer(name, size, "layer", settings.number("layer_norm_epsilon", default=1e-5), bias=True)
