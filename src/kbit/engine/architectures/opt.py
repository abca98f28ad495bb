"""OPT (Zhang et al. 2022): learned positions from 2 on, norms before or (350m) after each sublayer, embeddings narrower than the stream."""

from kbit.engine.architectures.blocks import FeedForward, HeadSizes, Join, Layer, Matrix, NormLayer, Place, SelfAttention, Table
from kbit.engine.architectures.model import Architecture, Embedding, Head
from kbit.engine.architectures.parts import read_heads, separate
from kbit.engine.architectures.settings import Settings

__all__ = ["opt"]

#: its positions begin here: the first two rows were the padding's
_FIRST_POSITION = 2


def opt(settings: Settings) -> Architecture:
    """OPT in all its sizes, and Galactica, which has no biases."""
    heads, before = read_heads(settings), settings.flag("do_layer_norm_before", default=True)
    size, vocabulary = heads.size, settings.integer("vocab_size")
    narrow = settings.optional_integer("word_embed_proj_dim") or size
    context = settings.integer("max_position_embeddings")
    positions = Table("model.decoder.embed_positions", context + _FIRST_POSITION, size, offset=_FIRST_POSITION)
    project_in, project_out = Matrix("model.decoder.project_in", size, narrow), Matrix("model.decoder.project_out", narrow, size)
    final = before and not settings.flag("_remove_final_layer_norm", default=False)
    projected = narrow != size
    return Architecture(
        name=settings.name,
        embedding=Embedding(Table("model.decoder.embed_tokens", vocabulary, narrow), positions, project=project_in if projected else None),
        layers=tuple(_layer(settings, heads, index) for index in settings.layers()),
        head=Head(
            _norm(settings, "model.decoder.final_layer_norm", size) if final else None,
            Matrix("lm_head", vocabulary, narrow),
            settings.flag("tie_word_embeddings", default=True),
            dense=project_out if projected else None,
        ),
        size=size,
        context=context,
        spellings=(("model.decoder.", "decoder."),),
    )


def _layer(settings: Settings, heads: HeadSizes, index: int) -> Layer:
    name, size, width = f"model.decoder.layers.{index}", heads.size, settings.integer("ffn_dim", "intermediate_size")
    bias = settings.flag("enable_bias", default=True)
    place: Place = "pre" if settings.flag("do_layer_norm_before", default=True) else "post"
    feed = FeedForward(
        (Matrix(f"{name}.fc1", width, size, bias=bias),),
        Matrix(f"{name}.fc2", size, width, bias=bias),
        settings.activation("activation_function", default="relu"),
    )
    joins = (Join(place, _norm(settings, f"{name}.{norm}", size)) for norm in ("self_attn_layer_norm", "final_layer_norm"))
    return Layer(_attention(heads, f"{name}.self_attn", bias=bias), next(joins), feed, next(joins))


def _attention(heads: HeadSizes, name: str, *, bias: bool) -> SelfAttention:
    return SelfAttention(
        inputs=separate((f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"), heads, bias=bias),
        output=Matrix(f"{name}.out_proj", heads.size, heads.q_rows, bias=bias),
        sizes=heads,
        scale=heads.scale,
    )


def _norm(settings: Settings, name: str, size: int) -> NormLayer:
    affine = settings.flag("layer_norm_elementwise_affine", default=True)
    return NormLayer(name, size, "layer", 1e-5, weight=affine, bias=affine)
