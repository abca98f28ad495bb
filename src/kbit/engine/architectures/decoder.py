"""The block that most decoders share: separate query, key and value matrices, rotary positions, a gated feed-forward layer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kbit.engine.architectures.blocks import FeedForward, HeadSizes, Join, Layer, Matrix, Mixture, NormLayer, SelfAttention, Table
from kbit.engine.architectures.model import Architecture, Embedding, Head
from kbit.engine.architectures.parts import separate
from kbit.engine.architectures.settings import Settings
from kbit.engine.ops import Activation, Rotary

__all__ = ["SPELLINGS", "Decoder", "decoder_model"]

#: a checkpoint of the model without its head has names without this prefix
SPELLINGS = (("model.", ""),)


@dataclass(frozen=True, slots=True)
class Decoder:
    """What all layers of a model have in common; its methods make the pieces of one.

    Attributes:
        heads: sizes.
        activation: of the feed-forward layer.
        eps, kind, plus_one: of all norms, see `NormLayer`.
        qkv_bias, output_bias: biases of attention.
        qk_norm: a norm over each head of queries and keys.
        scale: of the scores; None for 1 / √head_dim.
        softcap: of the scores.
        residual: factor of what a sublayer adds to the stream.
    """

    heads: HeadSizes
    activation: Activation
    eps: float
    kind: Literal["rms", "layer"] = "rms"
    plus_one: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    scale: float | None = None
    softcap: float | None = None
    residual: float = 1.0

    def norm(self, name: str, size: int | None = None) -> NormLayer:
        """A norm over the stream, or over `size` numbers."""
        return NormLayer(name, size or self.heads.size, self.kind, self.eps, self.plus_one)

    def attention(self, name: str, rotary: Rotary, window: int | None = None) -> SelfAttention:
        """Attention with matrices `q_proj k_proj v_proj o_proj` and norms `q_norm k_norm`."""
        heads = self.heads
        return SelfAttention(
            inputs=separate((f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"), heads, bias=self.qkv_bias),
            output=Matrix(f"{name}.o_proj", heads.size, heads.q_rows, bias=self.output_bias),
            sizes=heads,
            scale=heads.scale if self.scale is None else self.scale,
            rotary=rotary,
            window=window,
            softcap=self.softcap,
            q_norm=self.norm(f"{name}.q_norm", heads.head_dim) if self.qk_norm else None,
            k_norm=self.norm(f"{name}.k_norm", heads.head_dim) if self.qk_norm else None,
        )

    def feed(self, name: str, width: int, *, bias: bool = False) -> FeedForward:
        """A feed-forward layer with matrices `gate_proj up_proj down_proj`."""
        gate, up = (Matrix(f"{name}.{part}_proj", width, self.heads.size, bias=bias) for part in ("gate", "up"))
        return FeedForward((gate, up), Matrix(f"{name}.down_proj", self.heads.size, width, bias=bias), self.activation)

    def layer(self, index: int, attention: SelfAttention, feed: FeedForward | Mixture) -> Layer:
        """A layer with a norm before each sublayer."""
        names = (f"model.layers.{index}.{norm}" for norm in ("input_layernorm", "post_attention_layernorm"))
        before, between = (Join("pre", self.norm(name), scale=self.residual) for name in names)
        return Layer(attention, before, feed, between)


def decoder_model(
    settings: Settings,
    decoder: Decoder,
    layers: Iterable[Layer],
    context: int,
    *,
    tied: bool = False,
    embedding_scale: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    spellings: tuple[tuple[str, str], ...] = SPELLINGS,
) -> Architecture:
    """The model around layers: `model.embed_tokens`, `model.norm` and `lm_head`.

    Args:
        settings: the configuration.
        decoder: what its layers have in common.
        layers: from the first to the last.
        context: positions that it knows.
        tied: whether head and embedding are one where the configuration does not say.
        embedding_scale: factor of embeddings.
        logit_scale: factor of logits.
        softcap: of logits.
        spellings: see `Architecture`.
    """
    vocabulary, size = settings.integer("vocab_size"), decoder.heads.size
    tied = settings.flag("tie_word_embeddings", default=tied)
    matrix = Matrix("lm_head", vocabulary, size)
    return Architecture(
        name=settings.name,
        embedding=Embedding(Table("model.embed_tokens", vocabulary, size, embedding_scale)),
        layers=tuple(layers),
        head=Head(decoder.norm("model.norm"), matrix, tied, scale=logit_scale, softcap=softcap),
        size=size,
        context=context,
        spellings=spellings,
    )
