"""Llama-like decoders with a mixture of experts for a feed-forward layer: Mixtral and Qwen 3 MoE."""

from kbit.engine.architectures.blocks import FeedForward, Matrix, Mixture
from kbit.engine.architectures.decoder import SPELLINGS, Decoder, decoder_model
from kbit.engine.architectures.model import Architecture
from kbit.engine.architectures.parts import read_heads
from kbit.engine.architectures.rope import RopeDialect, read_rope
from kbit.engine.architectures.settings import Settings

__all__ = ["mixtral", "qwen3_moe"]


def mixtral(settings: Settings) -> Architecture:
    """Mixtral (Jiang et al. 2024): all layers are mixtures, whose weights are divided by their sum."""
    heads, activation = read_heads(settings, kv_heads=8), settings.activation("hidden_act", default="silu")
    decoder = Decoder(heads, activation, settings.number("rms_norm_eps", default=1e-5))
    rope = read_rope(settings, heads.head_dim, RopeDialect(theta=1_000_000.0))
    window, width = settings.optional_integer("sliding_window"), settings.integer("intermediate_size")
    layers = []
    for index in settings.layers():
        name = f"model.layers.{index}"
        mixture = _mixture(settings, decoder, f"{name}.mlp", (8, 2), width, normalize=True)
        layers.append(decoder.layer(index, decoder.attention(f"{name}.self_attn", rope.rotary, window), mixture))
    return decoder_model(settings, decoder, layers, rope.context, spellings=(*SPELLINGS, (".mlp.", ".block_sparse_moe.")))


def qwen3_moe(settings: Settings) -> Architecture:
    """Qwen 3 MoE: every n-th layer is a mixture, but those named; a norm over each head of queries and keys."""
    bias = settings.flag("attention_bias", default=False)
    heads, activation = read_heads(settings, kv_heads=4), settings.activation("hidden_act", default="silu")
    eps = settings.number("rms_norm_eps", default=1e-6)
    decoder = Decoder(heads, activation, eps, qkv_bias=bias, output_bias=bias, qk_norm=True)
    rope = read_rope(settings, heads.head_dim)
    used = settings.flag("use_sliding_window", default=False)
    window = settings.optional_integer("sliding_window", default=4096) if used else None
    layers = []
    for index in settings.layers():
        name = f"model.layers.{index}"
        attention = decoder.attention(f"{name}.self_attn", rope.rotary, window)
        layers.append(decoder.layer(index, attention, _qwen_feed(settings, decoder, f"{name}.mlp", index)))
    return decoder_model(settings, decoder, layers, rope.context)


def _qwen_feed(settings: Settings, decoder: Decoder, name: str, index: int) -> FeedForward | Mixture:
    step, dense = settings.integer("decoder_sparse_step", default=1), settings.indices("mlp_only_layers")
    if index in dense or (index + 1) % step:
        return decoder.feed(name, settings.integer("intermediate_size"))
    width, normalize = settings.integer("moe_intermediate_size", default=768), settings.flag("norm_topk_prob", default=False)
    return _mixture(settings, decoder, name, (128, 8), width, normalize=normalize)


def _mixture(settings: Settings, decoder: Decoder, name: str, usual: tuple[int, int], width: int, *, normalize: bool) -> Mixture:
    """A mixture; `usual` is the family's number of experts, and of those that a row takes."""
    count = settings.integer("num_local_experts", "num_experts", default=usual[0])
    top_k = settings.integer("num_experts_per_tok", default=usual[1])
    if top_k > count:
        raise settings.error(("num_experts_per_tok",), f"at most {count} experts", top_k)
    size = decoder.heads.size
    return Mixture(Matrix(f"{name}.gate", count, size), f"{name}.experts", count, width, size, top_k, normalize, decoder.activation)
