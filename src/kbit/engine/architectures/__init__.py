"""What the engine runs, a family an entry: `config.json` → `Architecture`.

An entry reads every key that changes the arithmetic and refuses what it does not do; keys that concern training, generation or tokens are
no business of its. A new family is a function here and a line in `_ENTRIES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from kbit.core.errors import ModelError
from kbit.core.registry import suggest
from kbit.engine.architectures.bart import bart, marian
from kbit.engine.architectures.bert import bert, roberta
from kbit.engine.architectures.bloom import bloom
from kbit.engine.architectures.cohere import cohere
from kbit.engine.architectures.gemma import gemma, gemma2, gemma3_text
from kbit.engine.architectures.gpt2 import gpt2
from kbit.engine.architectures.gptj import gptj
from kbit.engine.architectures.llama import granite, llama, mistral, qwen2, qwen3
from kbit.engine.architectures.mixtures import mixtral, qwen3_moe
from kbit.engine.architectures.model import Architecture, EncoderDecoder
from kbit.engine.architectures.neox import gpt_neox
from kbit.engine.architectures.opt import opt
from kbit.engine.architectures.phi import phi, phi3
from kbit.engine.architectures.settings import Settings
from kbit.engine.architectures.t5 import t5
from kbit.engine.architectures.vit import vit

__all__ = ["ENCODER_DECODER_TYPES", "MODEL_TYPES", "describe", "describe_encoder_decoder"]

T = TypeVar("T")

_ENTRIES: Mapping[str, Callable[[Settings], Architecture]] = {
    "bert": bert,
    "bloom": bloom,
    "cohere": cohere,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "gptj": gptj,
    "granite": granite,
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "opt": opt,
    "phi": phi,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "roberta": roberta,
    "vit": vit,
    "xlm-roberta": roberta,
}

_ENCODER_DECODERS: Mapping[str, Callable[[Settings], EncoderDecoder]] = {"bart": bart, "marian": marian, "t5": t5}

#: `model_type` of all configurations that have an entry
MODEL_TYPES = tuple(_ENTRIES)
#: the same, of those with an encoder and a decoder
ENCODER_DECODER_TYPES = tuple(_ENCODER_DECODERS)


def describe(config: Mapping[str, Any], context: int | None = None) -> Architecture:
    """The architecture of a configuration.

    Args:
        config: the `config.json`.
        context: positions that will be used, at most as many as the model knows; None for what it was made for. Models with two sets of
            rotary factors take the one for long texts only when more than the first one's length is asked for.

    Raises:
        ModelError: an unknown `model_type`, or a key whose value the engine does not do.
    """
    name, entry = _look_up(config, _ENTRIES, "a decoder or an encoder alone")
    if context is not None and context < 1:
        raise ModelError(f"{name}: expected a context of at least 1 position, got {context}")
    architecture = entry(Settings(config, name, context))
    if context is None:
        return architecture
    if architecture.context and context > architecture.context:
        raise ModelError(f"{name}: expected a context of at most {architecture.context} positions, got {context}")
    return replace(architecture, context=context)


def describe_encoder_decoder(config: Mapping[str, Any]) -> EncoderDecoder:
    """Both sides of a model that encodes one text and decodes another.

    Raises:
        ModelError: as `describe`.
    """
    name, entry = _look_up(config, _ENCODER_DECODERS, "an encoder with a decoder")
    return entry(Settings(config, name))


def _look_up(config: Mapping[str, Any], entries: Mapping[str, T], kind: str) -> tuple[str, T]:
    name = config.get("model_type")
    if isinstance(name, str) and name in entries:
        return name, entries[name]
    if isinstance(name, str) and (name in _ENTRIES or name in _ENCODER_DECODERS):
        raise ModelError(f"config.json: 'model_type': expected {kind}, got {name!r}")
    raise ModelError(f"config.json: 'model_type': the engine knows no {name!r}: {suggest(str(name), entries)}")
