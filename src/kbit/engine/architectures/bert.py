"""BERT and RoBERTa: encoders with learned positions and norms after each sublayer; hidden states, or logits of the masked tokens."""

from dataclasses import dataclass

from kbit.engine.architectures.blocks import FeedForward, HeadSizes, Join, Layer, Matrix, NormLayer, SelfAttention, Table
from kbit.engine.architectures.model import Architecture, Embedding, Head
from kbit.engine.architectures.parts import read_heads, separate
from kbit.engine.architectures.settings import Settings
from kbit.engine.ops import Activation

__all__ = ["bert", "roberta"]


@dataclass(frozen=True, slots=True)
class _Names:
    """What the two call the model, and the modules and the bias of their heads."""

    model: str
    dense: str
    norm: str
    matrix: str
    bias: str


_BERT = _Names(
    "bert.", "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder", "cls.predictions.bias"
)
_ROBERTA = _Names("roberta.", "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias")


def bert(settings: Settings) -> Architecture:
    """BERT (Devlin et al. 2019)."""
    return _encoder(settings, _BERT, settings.activation("hidden_act", default="gelu"), 0)


def roberta(settings: Settings) -> Architecture:
    """RoBERTa (Liu et al. 2019) and XLM-RoBERTa: positions begin after the padding token's id, and the head always takes gelu."""
    return _encoder(settings, _ROBERTA, "gelu", settings.integer("pad_token_id", default=1, least=0) + 1)


def _encoder(settings: Settings, names: _Names, head_activation: Activation, first_position: int) -> Architecture:
    for key in ("is_decoder", "add_cross_attention"):
        settings.only(key, False)
    settings.only("position_embedding_type", "absolute")
    heads, vocabulary = read_heads(settings), settings.integer("vocab_size")
    positions, size = settings.integer("max_position_embeddings"), heads.size
    layers = (_layer(settings, heads, f"{names.model}encoder.layer.{index}") for index in settings.layers())
    return Architecture(
        name=settings.name,
        embedding=Embedding(
            Table(f"{names.model}embeddings.word_embeddings", vocabulary, size),
            Table(f"{names.model}embeddings.position_embeddings", positions, size, offset=first_position),
            Table(f"{names.model}embeddings.token_type_embeddings", settings.integer("type_vocab_size", default=2), size),
            norm=_norm(settings, f"{names.model}embeddings.LayerNorm", size),
        ),
        layers=tuple(layers),
        head=Head(
            None,
            Matrix(names.matrix, vocabulary, size, bias=True),
            settings.flag("tie_word_embeddings", default=True),
            dense=Matrix(names.dense, size, size, bias=True),
            activation=head_activation,
            dense_norm=_norm(settings, names.norm, size),
            optional=True,
        ),
        size=size,
        context=positions - first_position,
        causal=False,
        # the bias stands beside the matrix, and the first checkpoints call the vectors of norms gamma and beta
        spellings=((names.model, ""), (f"{names.matrix}.bias", names.bias), (".weight", ".gamma"), (".bias", ".beta")),
    )


def _layer(settings: Settings, heads: HeadSizes, name: str) -> Layer:
    size, width = heads.size, settings.integer("intermediate_size")
    feed = FeedForward(
        (Matrix(f"{name}.intermediate.dense", width, size, bias=True),),
        Matrix(f"{name}.output.dense", size, width, bias=True),
        settings.activation("hidden_act", default="gelu"),
    )
    joins = (Join("post", _norm(settings, f"{name}.{norm}", size)) for norm in ("attention.output.LayerNorm", "output.LayerNorm"))
    return Layer(_attention(heads, f"{name}.attention"), next(joins), feed, next(joins))


def _attention(heads: HeadSizes, name: str) -> SelfAttention:
    return SelfAttention(
        inputs=separate((f"{name}.self.query", f"{name}.self.key", f"{name}.self.value"), heads, bias=True),
        output=Matrix(f"{name}.output.dense", heads.size, heads.q_rows, bias=True),
        sizes=heads,
        scale=heads.scale,
    )


def _norm(settings: Settings, name: str, size: int) -> NormLayer:
    return NormLayer(name, size, "layer", settings.number("layer_norm_eps", default=1e-12), bias=True)
