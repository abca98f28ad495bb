"""GPT-2 (Radford et al. 2019): learned positions, layer norms before each sublayer, matrices stored the other way round."""

from kbit.engine.architectures.blocks import FeedForward, HeadSizes, Join, Layer, Matrix, NormLayer, SelfAttention, Table
from kbit.engine.architectures.model import Architecture, Embedding, Head
from kbit.engine.architectures.parts import read_heads, side_by_side
from kbit.engine.architectures.settings import Settings

__all__ = ["gpt2"]


def gpt2(settings: Settings) -> Architecture:
    """GPT-2 and what was trained with its code. `reorder_and_upcast_attn` changes only the precision that fp32 has anyway."""
    settings.only("add_cross_attention", False)
    heads = read_heads(settings)
    positions, vocabulary = settings.integer("n_positions", "max_position_embeddings"), settings.integer("vocab_size")
    norm = _norm(settings, "transformer.ln_f", heads.size)
    token = Table("transformer.wte", vocabulary, heads.size)
    return Architecture(
        name=settings.name,
        embedding=Embedding(token, position=Table("transformer.wpe", positions, heads.size)),
        layers=tuple(_layer(settings, heads, i) for i in settings.layers("n_layer", "num_hidden_layers")),
        head=Head(norm, Matrix("lm_head", vocabulary, heads.size), settings.flag("tie_word_embeddings", default=True)),
        size=heads.size,
        context=positions,
        spellings=(("transformer.", ""),),
    )


def _layer(settings: Settings, heads: HeadSizes, index: int) -> Layer:
    name, size = f"transformer.h.{index}", heads.size
    width = settings.integer("n_inner", "intermediate_size", default=4 * size)
    feed = FeedForward(
        (Matrix(f"{name}.mlp.c_fc", width, size, bias=True, conv1d=True),),
        Matrix(f"{name}.mlp.c_proj", size, width, bias=True, conv1d=True),
        settings.activation("activation_function", default="gelu_new"),
    )
    joins = (Join("pre", _norm(settings, f"{name}.{norm}", size)) for norm in ("ln_1", "ln_2"))
    return Layer(_attention(settings, heads, name, index), next(joins), feed, next(joins))


def _attention(settings: Settings, heads: HeadSizes, name: str, index: int) -> SelfAttention:
    scale = heads.head_dim**-0.5 if settings.flag("scale_attn_weights", default=True) else 1.0
    if settings.flag("scale_attn_by_inverse_layer_idx", default=False):
        scale /= index + 1
    return SelfAttention(
        inputs=side_by_side(f"{name}.attn.c_attn", heads, bias=True, conv1d=True),
        output=Matrix(f"{name}.attn.c_proj", heads.size, heads.q_rows, bias=True, conv1d=True),
        sizes=heads,
        scale=scale,
    )


def _norm(settings: Settings, name: str, size: int) -> NormLayer:
    return NormLayer(name, size, "layer", settings.number("layer_norm_epsilon", default=1e-5), bias=True)
