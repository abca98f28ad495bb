"""`make_plan`: a configuration and the weights that are there become the list of operations of a forward step.

Every weight is looked up and its shape held against the configuration's numbers here, from the headers alone: a plan that was made can run.
"""

from collections.abc import Mapping
from typing import Any

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe, describe_encoder_decoder
from kbit.engine.builder import Builder
from kbit.engine.ops import EncoderDecoderPlan, ForwardPlan
from kbit.engine.weights import ModelWeights

__all__ = ["make_encoder_decoder_plan", "make_plan"]


def make_plan(config: Mapping[str, Any], weights: ModelWeights, context: int | None = None) -> ForwardPlan:
    """The forward step of a decoder or an encoder.

    Args:
        config: its `config.json`.
        weights: its weights, packed or not.
        context: positions that will be used; see `kbit.engine.architectures.describe`.

    Raises:
        ModelError: an architecture, an option or a quantization that the engine does not do, or weights that do not fit the configuration.
        DTypeError: a weight of a dtype that the engine does not read.
    """
    _check_quantization(config)
    return Builder(describe(config, context), weights).build()


def make_encoder_decoder_plan(config: Mapping[str, Any], weights: ModelWeights) -> EncoderDecoderPlan:
    """The forward steps of a model that encodes one text and decodes another; arguments and errors as for `make_plan`."""
    _check_quantization(config)
    model = describe_encoder_decoder(config)
    crosses = tuple(layer.cross for layer in model.decoder.layers if layer.cross is not None)
    return EncoderDecoderPlan(Builder(model.encoder, weights, crosses).build(), Builder(model.decoder, weights).build(), model.start)


def _check_quantization(config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if quantization and method != "kbit":
        raise ModelError(f"config.json: 'quantization_config': expected a model that kbit packed, or one in 16 or 32 bits, got {method!r}")
