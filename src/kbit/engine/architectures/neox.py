"""GPT-NeoX and Pythia (Black et al. 2022): fused, interleaved queries, keys and values; partial rotation; mostly parallel sublayers."""

from kbit.engine.architectures.blocks import FeedForward, HeadSizes, Join, Layer, Matrix, NormLayer, SelfAttention, Table
from kbit.engine.architectures.model import Architecture, Embedding, Head
from kbit.engine.architectures.parts import interleaved, read_heads
from kbit.engine.architectures.rope import RopeDialect, read_rope
from kbit.engine.architectures.settings import Settings
from kbit.engine.ops import Rotary

__all__ = ["gpt_neox"]

_DIALECT = RopeDialect(theta_key="rotary_emb_base", partial=0.25, partial_key="rotary_pct")


def gpt_neox(settings: Settings) -> Architecture:
    """GPT-NeoX, whose sublayers read norms of their own even where they are parallel."""
    heads = read_heads(settings)
    rope = read_rope(settings, heads.head_dim, _DIALECT)
    vocabulary = settings.integer("vocab_size")
    matrix = Matrix("lm_head", vocabulary, heads.size)
    norm = _norm(settings, "gpt_neox.final_layer_norm", heads.size)
    return Architecture(
        name=settings.name,
        embedding=Embedding(Table("gpt_neox.embed_in", vocabulary, heads.size)),
        layers=tuple(_layer(settings, heads, rope.rotary, index) for index in settings.layers()),
        head=Head(norm, matrix, settings.flag("tie_word_embeddings", default=False)),
        size=heads.size,
        context=rope.context,
        spellings=(("gpt_neox.", ""), ("lm_head", "embed_out")),
    )


def _layer(settings: Settings, heads: HeadSizes, rotary: Rotary, index: int) -> Layer:
    name, size, width = f"gpt_neox.layers.{index}", heads.size, settings.integer("intermediate_size")
    feed = FeedForward(
        (Matrix(f"{name}.mlp.dense_h_to_4h", width, size, bias=True),),
        Matrix(f"{name}.mlp.dense_4h_to_h", size, width, bias=True),
        settings.activation("hidden_act", default="gelu"),
    )
    joins = (Join("pre", _norm(settings, f"{name}.{norm}", size)) for norm in ("input_layernorm", "post_attention_layernorm"))
    attention = _attention(settings, heads, rotary, f"{name}.attention")
    return Layer(attention, next(joins), feed, next(joins), parallel=settings.flag("use_parallel_residual", default=True))


def _attention(settings: Settings, heads: HeadSizes, rotary: Rotary, name: str) -> SelfAttention:
    bias = settings.flag("attention_bias", default=True)
    return SelfAttention(
        inputs=interleaved(f"{name}.query_key_value", heads, bias=bias),
        output=Matrix(f"{name}.dense", heads.size, heads.q_rows, bias=bias),
        sizes=heads,
        scale=heads.scale,
        rotary=rotary,
    )


def _norm(settings: Settings, name: str, size: int) -> NormLayer:
    return NormLayer(name, size, "layer", settings.number("layer_norm_eps", default=1e-5), bias=True)
