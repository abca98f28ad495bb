"""ViT (Dosovitskiy et al. 2021): an encoder of image patches; hidden states, or the logits of classes."""

from kbit.engine.architectures.blocks import FeedForward, HeadSizes, Join, Layer, Matrix, NormLayer, SelfAttention, Table
from kbit.engine.architectures.model import Architecture, Head, PatchEmbedding
from kbit.engine.architectures.parts import read_heads, separate
from kbit.engine.architectures.settings import Settings

__all__ = ["vit"]

#: names in memory, and those that checkpoints have
_SPELLINGS = (
    ("vit.", ""),
    ("layers.", "encoder.layer."),
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)


def vit(settings: Settings) -> Architecture:
    """ViT for square images of one size. The pooler is left out: it reads one row, and no classifier reads it."""
    heads = read_heads(settings)
    image, patch, channels = settings.integer("image_size"), settings.integer("patch_size"), settings.integer("num_channels", default=3)
    if image % patch:
        raise settings.error(("patch_size",), f"a divisor of an image's {image} pixels", patch)
    rows, size = 1 + (image // patch) ** 2, heads.size
    return Architecture(
        name=settings.name,
        embedding=PatchEmbedding(
            Matrix("vit.embeddings.patch_embeddings.projection", size, channels * patch * patch, bias=True),
            Table("vit.embeddings.cls_token", 1, size),
            Table("vit.embeddings.position_embeddings", rows, size),
        ),
        layers=tuple(_layer(settings, heads, f"vit.layers.{index}") for index in settings.layers()),
        head=Head(_norm(settings, "vit.layernorm", size), Matrix("classifier", _labels(settings), size, bias=True), optional=True),
        size=size,
        context=rows,
        causal=False,
        spellings=_SPELLINGS,
    )


def _labels(settings: Settings) -> int:
    names = settings.nested("id2label")
    return settings.integer("num_labels", default=2 if names is None else max(len(names.values), 1))


def _layer(settings: Settings, heads: HeadSizes, name: str) -> Layer:
    size, width = heads.size, settings.integer("intermediate_size")
    feed = FeedForward(
        (Matrix(f"{name}.mlp.fc1", width, size, bias=True),),
        Matrix(f"{name}.mlp.fc2", size, width, bias=True),
        settings.activation("hidden_act", default="gelu"),
    )
    before, after = (Join("pre", _norm(settings, f"{name}.layernorm_{place}", size)) for place in ("before", "after"))
    return Layer(_attention(settings, heads, f"{name}.attention"), before, feed, after)


def _attention(settings: Settings, heads: HeadSizes, name: str) -> SelfAttention:
    bias = settings.flag("qkv_bias", default=True)
    return SelfAttention(
        inputs=separate((f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"), heads, bias=bias),
        output=Matrix(f"{name}.o_proj", heads.size, heads.q_rows, bias=True),
        sizes=heads,
        scale=heads.scale,
    )


def _norm(settings: Settings, name: str, size: int) -> NormLayer:
    return NormLayer(name, size, "layer", settings.number("layer_norm_eps", default=1e-12), bias=True)
