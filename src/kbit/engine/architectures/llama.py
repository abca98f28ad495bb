"""Llama and the families that differ from it by a few numbers: Mistral, Qwen 2 and 3, and the mixtures Mixtral and Qwen 3 MoE.

RMS norms before each sublayer, rotary positions, grouped keys and values, a gated feed-forward layer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kbit.engine.architectures.blocks import (
    Architecture,
    Embedding,
    FeedForward,
    Head,
    Join,
    Layer,
    Matrix,
    Mixture,
    NormLayer,
    SelfAttention,
    Table,
)
from kbit.engine.architectures.parts import Heads, read_heads, separate, windows
from kbit.engine.architectures.rope import Rope, RopeDialect, read_rope
from kbit.engine.architectures.settings import Settings
from kbit.engine.ops import Activation

__all__ = ["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"]

_SPELLINGS = (("model.", ""),)


@dataclass(frozen=True, slots=True)
class _Block:
    """What all layers of a model have in common."""

    heads: Heads
    rope: Rope
    eps: float
    activation: Activation
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False

    def norm(self, name: str, size: int | None = None) -> NormLayer:
        return NormLayer(name, size or self.heads.size, eps=self.eps)

    def attention(self, name: str, window: int | None) -> SelfAttention:
        heads = self.heads
        return SelfAttention(
            inputs=separate((f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"), heads, bias=self.qkv_bias),
            output=Matrix(f"{name}.o_proj", heads.size, heads.q_rows, bias=self.output_bias),
            heads=heads.heads,
            kv_heads=heads.kv_heads,
            head_dim=heads.head_dim,
            scale=heads.head_dim**-0.5,
            rotary=self.rope.rotary,
            window=window,
            q_norm=self.norm(f"{name}.q_norm", heads.head_dim) if self.qk_norm else None,
            k_norm=self.norm(f"{name}.k_norm", heads.head_dim) if self.qk_norm else None,
        )

    def feed(self, name: str, width: int, *, bias: bool = False) -> FeedForward:
        gate, up = (Matrix(f"{name}.{part}_proj", width, self.heads.size, bias=bias) for part in ("gate", "up"))
        return FeedForward((gate, up), Matrix(f"{name}.down_proj", self.heads.size, width, bias=bias), self.activation)

    def layer(self, index: int, window: int | None, feed: FeedForward | Mixture) -> Layer:
        name = f"model.layers.{index}"
        attention_join = Join("pre", self.norm(f"{name}.input_layernorm"))
        feed_join = Join("pre", self.norm(f"{name}.post_attention_layernorm"))
        return Layer(self.attention(f"{name}.self_attn", window), attention_join, feed, feed_join)


def llama(settings: Settings) -> Architecture:
    """Llama 1 to 3 (Touvron et al. 2023)."""
    bias, mlp_bias = settings.flag("attention_bias", default=False), settings.flag("mlp_bias", default=False)
    heads = read_heads(settings)
    block = _Block(heads, read_rope(settings, heads.head_dim), _eps(settings, 1e-6), _activation(settings), bias, bias)
    width = settings.integer("intermediate_size")
    return _model(settings, block, _no_windows(settings), lambda name, _: block.feed(name, width, bias=mlp_bias))


def mistral(settings: Settings) -> Architecture:
    """Mistral 7B (Jiang et al. 2023): windows in all layers, or in none."""
    settings.only("layer_types", None)
    heads = read_heads(settings, kv_heads=8)
    block = _Block(heads, read_rope(settings, heads.head_dim), _eps(settings, 1e-6), _activation(settings))
    width = settings.integer("intermediate_size")
    return _model(settings, block, _all_windows(settings), lambda name, _: block.feed(name, width))


def qwen2(settings: Settings) -> Architecture:
    """Qwen 2 and 2.5: biases on queries, keys and values; windows in the upper layers where they are in use."""
    heads = read_heads(settings, kv_heads=32)
    block = _Block(heads, read_rope(settings, heads.head_dim), _eps(settings, 1e-6), _activation(settings), qkv_bias=True)
    width = settings.integer("intermediate_size")
    return _model(settings, block, _upper_windows(settings), lambda name, _: block.feed(name, width))


def qwen3(settings: Settings) -> Architecture:
    """Qwen 3: a norm over each head of queries and keys."""
    bias = settings.flag("attention_bias", default=False)
    heads = read_heads(settings, kv_heads=32, head_dim=128)
    block = _Block(heads, read_rope(settings, heads.head_dim), _eps(settings, 1e-6), _activation(settings), bias, bias, qk_norm=True)
    width = settings.integer("intermediate_size")
    return _model(settings, block, _upper_windows(settings), lambda name, _: block.feed(name, width))


def mixtral(settings: Settings) -> Architecture:
    """Mixtral (Jiang et al. 2024): all layers are mixtures, whose weights are divided by their sum."""
    heads = read_heads(settings, kv_heads=8)
    rope = read_rope(settings, heads.head_dim, RopeDialect(theta=1_000_000.0))
    block = _Block(heads, rope, _eps(settings, 1e-5), _activation(settings))
    count, width = settings.integer("num_local_experts", "num_experts", default=8), settings.integer("intermediate_size")
    top_k = _top_k(settings, count, 2)
    spellings = (*_SPELLINGS, (".mlp.", ".block_sparse_moe."))
    return _model(
        settings, block, _all_windows(settings), lambda name, _: _mixture(block, name, count, width, top_k, normalize=True), spellings
    )


def qwen3_moe(settings: Settings) -> Architecture:
    """Qwen 3 MoE: every n-th layer is a mixture, but those named."""
    bias, used = settings.flag("attention_bias", default=False), settings.flag("use_sliding_window", default=False)
    heads = read_heads(settings, kv_heads=4)
    block = _Block(heads, read_rope(settings, heads.head_dim), _eps(settings, 1e-6), _activation(settings), bias, bias, qk_norm=True)
    count, width = settings.integer("num_experts", "num_local_experts", default=128), settings.integer("moe_intermediate_size", default=768)
    top_k, normalize = _top_k(settings, count, 8), settings.flag("norm_topk_prob", default=False)
    step, dense = settings.integer("decoder_sparse_step", default=1), settings.indices("mlp_only_layers")

    def feed(name: str, index: int) -> FeedForward | Mixture:
        if index in dense or (index + 1) % step:
            return block.feed(name, settings.integer("intermediate_size"))
        return _mixture(block, name, count, width, top_k, normalize=normalize)

    return _model(settings, block, _all_windows(settings) if used else _no_windows(settings), feed)


def _mixture(block: _Block, name: str, count: int, width: int, top_k: int, *, normalize: bool) -> Mixture:
    size = block.heads.size
    return Mixture(Matrix(f"{name}.gate", count, size), f"{name}.experts", count, width, size, top_k, normalize, block.activation)


def _model(
    settings: Settings,
    block: _Block,
    layer_windows: tuple[int | None, ...],
    feed: Callable[[str, int], FeedForward | Mixture],
    spellings: tuple[tuple[str, str], ...] = _SPELLINGS,
) -> Architecture:
    """The model of a block; `feed` makes a layer's feed-forward part from its module's name and the layer's index."""
    vocabulary, size = settings.integer("vocab_size"), block.heads.size
    return Architecture(
        name=settings.name,
        embedding=Embedding(Table("model.embed_tokens", vocabulary, size)),
        layers=tuple(block.layer(i, window, feed(f"model.layers.{i}.mlp", i)) for i, window in enumerate(layer_windows)),
        head=Head(block.norm("model.norm"), Matrix("lm_head", vocabulary, size), settings.flag("tie_word_embeddings", default=False)),
        size=size,
        context=block.rope.context,
        spellings=spellings,
    )


def _eps(settings: Settings, default: float) -> float:
    return settings.number("rms_norm_eps", default=default)


def _activation(settings: Settings) -> Activation:
    return settings.activation("hidden_act", default="silu")


def _top_k(settings: Settings, count: int, default: int) -> int:
    top_k = settings.integer("num_experts_per_tok", default=default)
    if top_k > count:
        raise settings.error(("num_experts_per_tok",), f"at most {count} experts", top_k)
    return top_k


def _no_windows(settings: Settings) -> tuple[None, ...]:
    return (None,) * settings.integer("num_hidden_layers")


def _all_windows(settings: Settings) -> tuple[int | None, ...]:
    return (settings.optional_integer("sliding_window"),) * settings.integer("num_hidden_layers")


def _upper_windows(settings: Settings) -> tuple[int | None, ...]:
    """Windows from layer `max_window_layers` on, where `use_sliding_window` is set."""
    count, first = settings.integer("num_hidden_layers"), settings.integer("max_window_layers", default=28, least=0)
    if not settings.flag("use_sliding_window", default=False):
        return _no_windows(settings)
    return windows(settings, count, ("full_attention",) * min(first, count) + ("sliding_attention",) * max(count - first, 0))
