"""Llama and what differs from it by a few numbers: Mistral, Qwen 2 and 3, Granite.

RMS norms before each sublayer, rotary positions, grouped keys and values, a gated feed-forward layer.
"""

from collections.abc import Iterable

from kbit.engine.architectures.decoder import Decoder, decoder_model
from kbit.engine.architectures.model import Architecture
from kbit.engine.architectures.parts import read_heads, windows
from kbit.engine.architectures.rope import Rope, read_rope
from kbit.engine.architectures.settings import Settings

__all__ = ["granite", "llama", "mistral", "qwen2", "qwen3"]


def llama(settings: Settings) -> Architecture:
    """Llama 1 to 3 (Touvron et al. 2023)."""
    bias = settings.flag("attention_bias", default=False)
    heads, activation = read_heads(settings), settings.activation("hidden_act", default="silu")
    decoder = Decoder(heads, activation, settings.number("rms_norm_eps", default=1e-6), qkv_bias=bias, output_bias=bias)
    return _model(settings, decoder, _no_windows(settings), mlp_bias=settings.flag("mlp_bias", default=False))


def mistral(settings: Settings) -> Architecture:
    """Mistral 7B (Jiang et al. 2023): windows in all layers, or in none."""
    settings.only("layer_types", None)
    heads, activation = read_heads(settings, kv_heads=8), settings.activation("hidden_act", default="silu")
    decoder = Decoder(heads, activation, settings.number("rms_norm_eps", default=1e-6))
    window = settings.optional_integer("sliding_window", default=4096)
    return _model(settings, decoder, [window for _ in settings.layers()])


def qwen2(settings: Settings) -> Architecture:
    """Qwen 2 and 2.5: biases on queries, keys and values; windows in the upper layers where they are in use."""
    heads, activation = read_heads(settings, kv_heads=32), settings.activation("hidden_act", default="silu")
    decoder = Decoder(heads, activation, settings.number("rms_norm_eps", default=1e-6), qkv_bias=True)
    return _model(settings, decoder, _upper_windows(settings))


def qwen3(settings: Settings) -> Architecture:
    """Qwen 3: a norm over each head of queries and keys."""
    bias = settings.flag("attention_bias", default=False)
    heads, activation = read_heads(settings, kv_heads=32, head_dim=128), settings.activation("hidden_act", default="silu")
    eps = settings.number("rms_norm_eps", default=1e-6)
    decoder = Decoder(heads, activation, eps, qkv_bias=bias, output_bias=bias, qk_norm=True)
    return _model(settings, decoder, _upper_windows(settings))


def granite(settings: Settings) -> Architecture:
    """Granite 3: Llama with a factor on embeddings, scores, residuals and logits."""
    bias = settings.flag("attention_bias", default=False)
    decoder = Decoder(
        read_heads(settings),
        settings.activation("hidden_act", default="silu"),
        settings.number("rms_norm_eps", default=1e-6),
        qkv_bias=bias,
        output_bias=bias,
        scale=settings.number("attention_multiplier", default=1.0),
        residual=settings.number("residual_multiplier", default=1.0),
    )
    return _model(
        settings,
        decoder,
        _no_windows(settings),
        mlp_bias=settings.flag("mlp_bias", default=False),
        embedding_scale=settings.number("embedding_multiplier", default=1.0),
        logit_scale=1 / settings.number("logits_scaling", default=1.0),
    )


def _model(
    settings: Settings,
    decoder: Decoder,
    layer_windows: Iterable[int | None],
    *,
    mlp_bias: bool = False,
    embedding_scale: float = 1.0,
    logit_scale: float = 1.0,
) -> Architecture:
    rope: Rope = read_rope(settings, decoder.heads.head_dim)
    width = settings.integer("intermediate_size")
    layers = []
    for index, window in enumerate(layer_windows):
        name = f"model.layers.{index}"
        attention = decoder.attention(f"{name}.self_attn", rope.rotary, window)
        layers.append(decoder.layer(index, attention, decoder.feed(f"{name}.mlp", width, bias=mlp_bias)))
    return decoder_model(settings, decoder, layers, rope.context, embedding_scale=embedding_scale, logit_scale=logit_scale)


def _no_windows(settings: Settings) -> tuple[None, ...]:
    return tuple(None for _ in settings.layers())


def _upper_windows(settings: Settings) -> tuple[int | None, ...]:
    """Windows from layer `max_window_layers` on, where `use_sliding_window` is set."""
    count, first = len(settings.layers()), settings.integer("max_window_layers", default=28, least=0)
    if not settings.flag("use_sliding_window", default=False):
        return _no_windows(settings)
    return windows(settings, ("full_attention",) * min(first, count) + ("sliding_attention",) * max(count - first, 0))
