"""T5 and Flan-T5 (Raffel et al. 2020): no positions but a learned bias by distance, RMS norms, scores that are not scaled."""

from collections.abc import Iterator

from kbit.engine.architectures.blocks import (
    Cross,
    FeedForward,
    HeadSizes,
    Join,
    Layer,
    Matrix,
    NormLayer,
    RelativeTable,
    SelfAttention,
    Table,
)
from kbit.engine.architectures.model import Architecture, Embedding, EncoderDecoder, Head
from kbit.engine.architectures.parts import separate
from kbit.engine.architectures.settings import Settings

__all__ = ["t5"]

#: distances up to which biases may differ: the engine has a table of all
_LONGEST = 1 << 16

_SPELLINGS = (("shared", "encoder.embed_tokens"), ("encoder.embed_tokens", "decoder.embed_tokens"))


def t5(settings: Settings) -> EncoderDecoder:
    """T5 1.0 scales the states that its head reads by 1 / √width, later ones do not; their files say so by a head that is not tied."""
    heads = settings.integer("num_heads", "num_attention_heads")
    sizes = HeadSizes(settings.integer("d_model", "hidden_size"), heads, heads, settings.integer("d_kv", "head_dim"))
    layers = settings.layers("num_layers", "num_hidden_layers")
    decoder_layers = settings.layers("num_decoder_layers") if settings.raw("num_decoder_layers") is not None else layers
    scaled = settings.flag("scale_decoder_outputs", default=settings.flag("tie_word_embeddings", default=True))
    matrix = Matrix("lm_head", settings.integer("vocab_size"), sizes.size)
    encoder_norm, norm = (_norm(settings, f"{stack}.final_layer_norm", sizes.size) for stack in ("encoder", "decoder"))
    head = Head(norm, matrix, tied=True, scale=sizes.size**-0.5 if scaled else 1.0)
    padding = settings.optional_integer("pad_token_id", least=0)
    return EncoderDecoder(
        settings.name,
        encoder=_stack(settings, sizes, "encoder", layers, Head(encoder_norm)),
        decoder=_stack(settings, sizes, "decoder", decoder_layers, head),
        start=settings.optional_integer("decoder_start_token_id", default=padding, least=0),
    )


def _stack(settings: Settings, sizes: HeadSizes, name: str, layers: range, head: Head) -> Architecture:
    make = _decoder_layer if name == "decoder" else _encoder_layer
    return Architecture(
        name=settings.name,
        embedding=Embedding(Table("shared", settings.integer("vocab_size"), sizes.size)),
        layers=tuple(make(settings, sizes, index) for index in layers),
        head=head,
        size=sizes.size,
        context=0,
        causal=name == "decoder",
        spellings=_SPELLINGS,
    )


def _encoder_layer(settings: Settings, sizes: HeadSizes, index: int) -> Layer:
    name = f"encoder.block.{index}.layer"
    joins = _joins(settings, sizes, name)
    return Layer(_attention(settings, sizes, "encoder", index), next(joins), _feed(settings, sizes, f"{name}.1"), next(joins))


def _decoder_layer(settings: Settings, sizes: HeadSizes, index: int) -> Layer:
    name = f"decoder.block.{index}.layer"
    first, second, third = (join for join, _ in zip(_joins(settings, sizes, name), range(3), strict=False))
    attention, feed = _attention(settings, sizes, "decoder", index), _feed(settings, sizes, f"{name}.2")
    return Layer(attention, first, feed, third, cross=_cross(sizes, f"{name}.1.EncDecAttention"), cross_join=second)


def _joins(settings: Settings, sizes: HeadSizes, name: str) -> Iterator[Join]:
    """Joins of a layer's sublayers, from the first."""
    return (Join("pre", _norm(settings, f"{name}.{part}.layer_norm", sizes.size)) for part in range(3))


def _attention(settings: Settings, sizes: HeadSizes, stack: str, index: int) -> SelfAttention:
    """All layers of a stack share the table of its first."""
    name = f"{stack}.block.{index}.layer.0.SelfAttention"
    buckets = settings.integer("relative_attention_num_buckets", default=32, least=4)
    longest = settings.integer("relative_attention_max_distance", default=128, most=_LONGEST)
    if longest <= buckets:
        raise settings.error(("relative_attention_max_distance",), f"more than {buckets} buckets", longest)
    return SelfAttention(
        inputs=separate((f"{name}.q", f"{name}.k", f"{name}.v"), sizes, bias=False),
        output=Matrix(f"{name}.o", sizes.size, sizes.q_rows),
        sizes=sizes,
        scale=1.0,
        relative=RelativeTable(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias", buckets, sizes.heads, longest),
    )


def _cross(sizes: HeadSizes, name: str) -> Cross:
    q, k, v = separate((f"{name}.q", f"{name}.k", f"{name}.v"), sizes, bias=False).matrices
    return Cross(q, k, v, Matrix(f"{name}.o", sizes.size, sizes.q_rows), sizes, 1.0)


def _feed(settings: Settings, sizes: HeadSizes, name: str) -> FeedForward:
    width, kind = settings.integer("d_ff"), settings.text("feed_forward_proj", default="relu")
    gated, activation = kind.startswith("gated-"), kind.removeprefix("gated-")
    # "gated-gelu" is from before the two kinds of gelu were told apart
    activation = "gelu_new" if kind == "gated-gelu" else activation
    names = ("wi_0", "wi_1") if gated else ("wi",)
    inputs = tuple(Matrix(f"{name}.DenseReluDense.{part}", width, sizes.size) for part in names)
    act = Settings({"feed_forward_proj": activation}, settings.name).activation("feed_forward_proj", default="relu")
    return FeedForward(inputs, Matrix(f"{name}.DenseReluDense.wo", sizes.size, width), act)


def _norm(settings: Settings, name: str, size: int) -> NormLayer:
    return NormLayer(name, size, eps=settings.number("layer_norm_epsilon", default=1e-6))
