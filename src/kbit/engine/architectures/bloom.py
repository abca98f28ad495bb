"""BLOOM (Le Scao et al. 2022): no positions but a slope a head, interleaved queries, keys and values, a norm on the embeddings."""

from kbit.engine.architectures.blocks import FeedForward, HeadSizes, Join, Layer, Matrix, NormLayer, Place, SelfAttention, Table
from kbit.engine.architectures.model import Architecture, Embedding, Head
from kbit.engine.architectures.parts import interleaved, read_heads
from kbit.engine.architectures.settings import Settings

__all__ = ["bloom"]


def bloom(settings: Settings) -> Architecture:
    """BLOOM and BLOOMZ. `pretraining_tp` and `slow_but_exact` only say in which order sums were taken."""
    heads, vocabulary = read_heads(settings), settings.integer("vocab_size")
    norm = _norm(settings, "transformer.ln_f", heads.size)
    token = Table("transformer.word_embeddings", vocabulary, heads.size)
    return Architecture(
        name=settings.name,
        embedding=Embedding(token, norm=_norm(settings, "transformer.word_embeddings_layernorm", heads.size)),
        layers=tuple(_layer(settings, heads, index) for index in settings.layers("n_layer", "num_hidden_layers")),
        head=Head(norm, Matrix("lm_head", vocabulary, heads.size), settings.flag("tie_word_embeddings", default=True)),
        size=heads.size,
        context=0,
        spellings=(("transformer.", ""),),
    )


def _layer(settings: Settings, heads: HeadSizes, index: int) -> Layer:
    name, size = f"transformer.h.{index}", heads.size
    feed = FeedForward(
        (Matrix(f"{name}.mlp.dense_h_to_4h", 4 * size, size, bias=True),),
        Matrix(f"{name}.mlp.dense_4h_to_h", size, 4 * size, bias=True),
        "gelu_tanh",
    )
    place: Place = "replace" if settings.flag("apply_residual_connection_post_layernorm", default=False) else "pre"
    joins = (Join(place, _norm(settings, f"{name}.{norm}", size)) for norm in ("input_layernorm", "post_attention_layernorm"))
    return Layer(_attention(heads, f"{name}.self_attention"), next(joins), feed, next(joins))


def _attention(heads: HeadSizes, name: str) -> SelfAttention:
    return SelfAttention(
        inputs=interleaved(f"{name}.query_key_value", heads, bias=True),
        output=Matrix(f"{name}.dense", heads.size, heads.q_rows, bias=True),
        sizes=heads,
        scale=heads.scale,
        alibi=True,
    )


def _norm(settings: Settings, name: str, size: int) -> NormLayer:
    return NormLayer(name, size, "layer", settings.number("layer_norm_epsilon", default=1e-5), bias=True)
