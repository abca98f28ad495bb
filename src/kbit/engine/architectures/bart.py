"""BART (Lewis et al. 2020) and Marian (Junczys-Dowmunt et al. 2018): the transformer of Vaswani et al. with norms after each sublayer.

BART learns its positions and normalizes its embeddings; Marian's positions are sines and cosines.
"""

from dataclasses import dataclass

from kbit.engine.architectures.blocks import Cross, FeedForward, HeadSizes, Join, Layer, Matrix, NormLayer, SelfAttention, Table
from kbit.engine.architectures.model import Architecture, Embedding, EncoderDecoder, Head
from kbit.engine.architectures.parts import separate
from kbit.engine.architectures.settings import Settings

__all__ = ["bart", "marian"]

#: BART's positions begin here: the first two rows were the padding's
_FIRST_POSITION = 2


@dataclass(frozen=True, slots=True)
class _Stack:
    """Names and sizes of encoder or decoder.

    Attributes:
        name: ``encoder`` or ``decoder``.
        sizes, width, layers: of attention, of the feed-forward layer, and how many there are.
        token: table of its vocabulary.
    """

    name: str
    sizes: HeadSizes
    width: int
    layers: range
    token: Table


def bart(settings: Settings) -> EncoderDecoder:
    """BART, and mBART's elder brothers that are saved as such."""
    return _model(settings, settings.integer("vocab_size"), settings.integer("vocab_size"))


def marian(settings: Settings) -> EncoderDecoder:
    """Marian, whose two sides may have vocabularies of their own."""
    shared, vocabulary = settings.flag("share_encoder_decoder_embeddings", default=True), settings.integer("vocab_size")
    return _model(settings, vocabulary, vocabulary if shared else settings.integer("decoder_vocab_size", default=vocabulary))


def _model(settings: Settings, source: int, target: int) -> EncoderDecoder:
    encoder, decoder = _stack(settings, "encoder", source), _stack(settings, "decoder", target)
    matrix = Matrix("lm_head", target, decoder.sizes.size, bias=True)
    head = Head(None, matrix, settings.flag("tie_word_embeddings", default=True))
    return EncoderDecoder(
        settings.name,
        encoder=_side(settings, encoder, Head(None)),
        decoder=_side(settings, decoder, head),
        start=settings.optional_integer("decoder_start_token_id", least=0),
    )


def _stack(settings: Settings, name: str, vocabulary: int) -> _Stack:
    size, heads = settings.integer("d_model", "hidden_size"), settings.integer(f"{name}_attention_heads")
    if size % heads:
        raise settings.error((f"{name}_attention_heads",), f"a divisor of {size}", heads)
    scale = size**0.5 if settings.flag("scale_embedding", default=False) else 1.0
    return _Stack(
        name,
        HeadSizes(size, heads, heads, size // heads),
        settings.integer(f"{name}_ffn_dim"),
        settings.layers(f"{name}_layers"),
        Table(f"model.{name}.embed_tokens", vocabulary, size, scale),
    )


def _side(settings: Settings, stack: _Stack, head: Head) -> Architecture:
    return Architecture(
        name=settings.name,
        embedding=_embedding(settings, stack),
        layers=tuple(_layer(settings, stack, f"model.{stack.name}.layers.{index}") for index in stack.layers),
        head=head,
        size=stack.sizes.size,
        context=settings.integer("max_position_embeddings"),
        causal=stack.name == "decoder",
        # tables that both sides share are stored under the model's name for them; the logits' bias stands by itself
        spellings=((f"model.{stack.name}.embed_tokens", "model.shared"), ("lm_head.bias", "final_logits_bias")),
    )


def _embedding(settings: Settings, stack: _Stack) -> Embedding:
    size, context, name = stack.sizes.size, settings.integer("max_position_embeddings"), f"model.{stack.name}"
    if settings.name == "marian":
        if size % 2:
            raise settings.error(("d_model",), "an even width, half sines and half cosines", size)
        return Embedding(stack.token, waves=tuple(10_000.0 ** (-2 * i / size) for i in range(size // 2)))
    position = Table(f"{name}.embed_positions", context + _FIRST_POSITION, size, offset=_FIRST_POSITION)
    return Embedding(stack.token, position, norm=_norm(f"{name}.layernorm_embedding", size))


def _layer(settings: Settings, stack: _Stack, name: str) -> Layer:
    size, sizes, decodes = stack.sizes.size, stack.sizes, stack.name == "decoder"
    feed = FeedForward(
        (Matrix(f"{name}.fc1", stack.width, size, bias=True),),
        Matrix(f"{name}.fc2", size, stack.width, bias=True),
        settings.activation("activation_function", default="gelu"),
    )
    before, between, after = (
        Join("post", _norm(f"{name}.{norm}_layer_norm", size)) for norm in ("self_attn", "encoder_attn", "final")
    )  # fmt: skip
    cross = _cross(sizes, f"{name}.encoder_attn") if decodes else None
    return Layer(_attention(sizes, f"{name}.self_attn"), before, feed, after, cross=cross, cross_join=between if decodes else None)


def _attention(sizes: HeadSizes, name: str) -> SelfAttention:
    return SelfAttention(
        inputs=separate((f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"), sizes, bias=True),
        output=Matrix(f"{name}.out_proj", sizes.size, sizes.q_rows, bias=True),
        sizes=sizes,
        scale=sizes.scale,
    )


def _cross(sizes: HeadSizes, name: str) -> Cross:
    q, k, v = separate((f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"), sizes, bias=True).matrices
    return Cross(q, k, v, Matrix(f"{name}.out_proj", sizes.size, sizes.q_rows, bias=True), sizes, sizes.scale)


def _norm(name: str, size: int) -> NormLayer:
    return NormLayer(name, size, "layer", 1e-5, bias=True)
