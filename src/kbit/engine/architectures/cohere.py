"""Command R (Cohere): layer norms without bias, parallel sublayers on one norm, rotation of neighbouring pairs, scaled logits."""

from dataclasses import replace

from kbit.engine.architectures.blocks import Join, Layer
from kbit.engine.architectures.decoder import Decoder, decoder_model
from kbit.engine.architectures.model import Architecture
from kbit.engine.architectures.parts import read_heads
from kbit.engine.architectures.rope import RopeDialect, read_rope
from kbit.engine.architectures.settings import Settings

__all__ = ["cohere"]


def cohere(settings: Settings) -> Architecture:
    """Command R. Command R+ has a norm with a weight of its own for each head, which no operation of the engine is."""
    settings.only("use_qk_norm", False)
    heads, bias = read_heads(settings), settings.flag("attention_bias", default=False)
    activation, eps = settings.activation("hidden_act", default="silu"), settings.number("layer_norm_eps", default=1e-5)
    decoder = Decoder(heads, activation, eps, "layer", qkv_bias=bias, output_bias=bias)
    rope = read_rope(settings, heads.head_dim, RopeDialect(theta=500_000.0))
    rotary, width = replace(rope.rotary, interleaved=True), settings.integer("intermediate_size")
    layers = []
    for index in settings.layers():
        name = f"model.layers.{index}"
        join = Join("pre", decoder.norm(f"{name}.input_layernorm"))
        attention, feed = decoder.attention(f"{name}.self_attn", rotary), decoder.feed(f"{name}.mlp", width)
        layers.append(Layer(attention, join, feed, join, parallel=True))
    scale = settings.number("logit_scale", default=0.0625)
    return decoder_model(settings, decoder, layers, rope.context, tied=True, logit_scale=scale)
