"""Tiny random models of every family, with all that is particular to it switched on, and what transformers answers for them.

Sizes are odd on purpose, norm weights and biases are random, windows are shorter than the texts, and rotary scalings reach into them.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

VOCABULARY = 97
CONTEXT = 64


@dataclass(frozen=True)
class Kind:
    """A tiny model: classes of transformers and settings; `context` is asked of the plan, `causal` False for encoders."""

    cls: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    context: int | None = None
    causal: bool = True


_LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT, "bos_token_id": 1, "eos_token_id": 2}


_NEOX = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_OPT = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "ffn_dim": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 48, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
_BERT = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT, "pad_token_id": 0,
}  # fmt: skip


def rope(kind: str, **values: Any) -> dict[str, Any]:
    """Rotary settings of a kind, with a base small enough to matter in a short text."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0} | values}


def longrope(original: int) -> dict[str, Any]:
    """Phi 3's rotary settings for heads of 12 dimensions, trained on texts of `original` tokens."""
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0]}
    return rope("longrope", **factors) | {"original_max_position_embeddings": original}


KINDS: dict[str, Kind] = {
    "llama": Kind("LlamaForCausalLM", "LlamaConfig", _LLAMA | {"tie_word_embeddings": False}),
    "llama_tied_biased": Kind(
        "LlamaForCausalLM", "LlamaConfig", _LLAMA | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 10}
    ),
    "llama_linear": Kind("LlamaForCausalLM", "LlamaConfig", _LLAMA | rope("linear", factor=3.0)),
    "llama_llama3": Kind(
        "LlamaForCausalLM",
        "LlamaConfig",
        _LLAMA | rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    ),
    "llama_yarn": Kind(
        "LlamaForCausalLM",
        "LlamaConfig",
        _LLAMA | {"head_dim": 16} | rope("yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0),
    ),
    "llama_yarn_scaled": Kind(
        "LlamaForCausalLM",
        "LlamaConfig",
        _LLAMA | rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.7, mscale_all_dim=0.3, truncate=False),
    ),
    "mistral": Kind("MistralForCausalLM", "MistralConfig", _LLAMA | {"sliding_window": 5}),
    "qwen2": Kind(
        "Qwen2ForCausalLM",
        "Qwen2Config",
        _LLAMA | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1, "tie_word_embeddings": True},
    ),
    "qwen3": Kind(
        "Qwen3ForCausalLM",
        "Qwen3Config",
        _LLAMA
        | {"head_dim": 20, "attention_bias": True, "use_sliding_window": True, "sliding_window": 4}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "mixtral": Kind(
        "MixtralForCausalLM", "MixtralConfig", _LLAMA | {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 7}
    ),
    "qwen3_moe": Kind(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        _LLAMA
        | {"num_hidden_layers": 4, "head_dim": 12, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
        | {"decoder_sparse_step": 2, "mlp_only_layers": [3], "norm_topk_prob": False},
    ),
    "qwen3_moe_normalized": Kind(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        _LLAMA
        | {"head_dim": 12, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "norm_topk_prob": True}
        | {"use_sliding_window": True, "sliding_window": 6, "attention_bias": True},
    ),
    "granite": Kind(
        "GraniteForCausalLM",
        "GraniteConfig",
        _LLAMA
        | {"attention_multiplier": 0.2, "residual_multiplier": 0.6, "embedding_multiplier": 3.0, "logits_scaling": 4.0}
        | {"attention_bias": True, "mlp_bias": True},
    ),
    "gemma": Kind("GemmaForCausalLM", "GemmaConfig", _LLAMA | {"head_dim": 16, "attention_bias": True}),
    "gemma2": Kind(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        _LLAMA
        | {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 5}
        | {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.5},
    ),
    "gemma3": Kind(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        _LLAMA
        | {"num_hidden_layers": 4, "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 6, "final_logit_softcapping": 3.0}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]}
        | {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
            }
        },
    ),
    "phi": Kind("PhiForCausalLM", "PhiConfig", _LLAMA | {"partial_rotary_factor": 0.5, "qk_layernorm": True}),
    "phi3": Kind("Phi3ForCausalLM", "Phi3Config", _LLAMA | {"sliding_window": 8}),
    "phi3_short": Kind("Phi3ForCausalLM", "Phi3Config", _LLAMA | longrope(original=32)),
    "phi3_long": Kind("Phi3ForCausalLM", "Phi3Config", _LLAMA | longrope(original=4), context=CONTEXT),
    "cohere": Kind("CohereForCausalLM", "CohereConfig", _LLAMA | {"logit_scale": 0.3}),
    "gpt_neox": Kind("GPTNeoXForCausalLM", "GPTNeoXConfig", _NEOX | {"rotary_pct": 0.5}),
    "gpt_neox_serial": Kind(
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        _NEOX | {"use_parallel_residual": False, "attention_bias": False, "rotary_emb_base": 500, "hidden_act": "gelu_new"},
    ),
    "gptj": Kind(
        "GPTJForCausalLM",
        "GPTJConfig",
        {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT, "rotary_dim": 6}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "opt": Kind("OPTForCausalLM", "OPTConfig", _OPT),
    "opt_350m": Kind("OPTForCausalLM", "OPTConfig", _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 20}),
    "opt_projected": Kind(
        "OPTForCausalLM",
        "OPTConfig",
        _OPT | {"word_embed_proj_dim": 20, "enable_bias": False, "layer_norm_elementwise_affine": False, "tie_word_embeddings": False},
    ),
    "bloom": Kind("BloomForCausalLM", "BloomConfig", _BLOOM),
    "bloom_residual": Kind("BloomForCausalLM", "BloomConfig", _BLOOM | {"n_head": 6, "apply_residual_connection_post_layernorm": True}),
    "gpt2": Kind("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "gpt2_options": Kind(
        "GPT2LMHeadModel",
        "GPT2Config",
        _GPT2 | {"n_inner": 80, "scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
    ),
    "bert": Kind("BertModel", "BertConfig", _BERT, causal=False),
    "bert_masked": Kind("BertForMaskedLM", "BertConfig", _BERT | {"hidden_act": "relu"}, causal=False),
    "roberta": Kind("RobertaModel", "RobertaConfig", _BERT | {"pad_token_id": 1}, causal=False),
    "roberta_masked": Kind("RobertaForMaskedLM", "RobertaConfig", _BERT | {"pad_token_id": 1}, causal=False),
    "xlm_roberta": Kind("XLMRobertaForMaskedLM", "XLMRobertaConfig", _BERT | {"pad_token_id": 2, "type_vocab_size": 1}, causal=False),
}


_T5 = {
    "vocab_size": VOCABULARY, "d_model": 48, "d_kv": 10, "d_ff": 80, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_BART = {
    "vocab_size": VOCABULARY, "d_model": 48, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 80, "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4, "decoder_attention_heads": 6, "max_position_embeddings": CONTEXT, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": 1,
}  # fmt: skip

#: models that encode one text and decode another
PAIRS: dict[str, Kind] = {
    "t5": Kind("T5ForConditionalGeneration", "T5Config", _T5),
    "t5_gated": Kind("T5ForConditionalGeneration", "T5Config", _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": Kind("BartForConditionalGeneration", "BartConfig", _BART),
    "bart_scaled": Kind("BartForConditionalGeneration", "BartConfig", _BART | {"scale_embedding": True, "activation_function": "relu"}),
    "marian": Kind("MarianMTModel", "MarianConfig", _BART | {"activation_function": "swish", "scale_embedding": True}),
    "marian_apart": Kind(
        "MarianMTModel",
        "MarianConfig",
        _BART | {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 83, "tie_word_embeddings": False},
    ),
}


_VIT = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 12, "patch_size": 4,
    "num_channels": 2, "num_labels": 5,
}  # fmt: skip

#: models of images
IMAGES: dict[str, Kind] = {
    "vit": Kind("ViTModel", "ViTConfig", _VIT | {"qkv_bias": False}, causal=False),
    "vit_classes": Kind("ViTForImageClassification", "ViTConfig", _VIT | {"hidden_act": "gelu_new"}, causal=False),
}

_EVERYTHING = KINDS | PAIRS | IMAGES


def config_of(name: str) -> dict[str, Any]:
    """The `config.json` of a kind."""
    kind = _EVERYTHING[name]
    values: dict[str, Any] = json.loads(getattr(transformers, kind.config)(**kind.settings).to_json_string(use_diff=False))
    return values


def build(name: str) -> nn.Module:
    """The model of a name, see `build_kind`."""
    return build_kind(_EVERYTHING[name])


def build_kind(kind: Kind) -> nn.Module:
    """The model, the same at every call, attention in its plain form; norms and biases are far from what they are initialised with."""
    torch.manual_seed(7)
    config = getattr(transformers, kind.config)(**kind.settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, kind.cls)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # Marian's sines are a parameter too
                randomize(parameter)
        for place, parameter in model.named_parameters():
            if place.endswith("Attention.q.weight"):  # T5 does not scale scores but what makes them
                parameter.mul_(model.config.d_kv**-0.5)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    return model.eval()


def randomize(parameter: nn.Parameter) -> None:
    """Matrices that keep the size of what goes through them; vectors well away from what they are initialised with."""
    noise = torch.randn_like(parameter)
    parameter.copy_(parameter + 0.3 * noise if parameter.ndim == 1 else 1.5 * noise / math.sqrt(parameter.shape[-1]))


def save(model: nn.Module, folder: Path, **options: Any) -> Path:
    """The folder with the model in it."""
    model.save_pretrained(folder, **options)
    return folder


def answer(model: nn.Module, tokens: list[int]) -> NDArray[np.float32]:
    """What transformers answers for one text: logits, or hidden states [tokens, width]."""
    with torch.no_grad():
        output = model(input_ids=torch.tensor([tokens]))
    values = output.logits if "logits" in output else output.last_hidden_state
    return np.asarray(values[0].float().numpy())


def answer_pair(model: nn.Module, source: list[int], target: list[int]) -> NDArray[np.float32]:
    """Logits [target tokens, vocabulary] of the decoder."""
    with torch.no_grad():
        output = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target]))
    return np.asarray(output.logits[0].float().numpy())


def picture(seed: int) -> NDArray[np.float32]:
    """Pixels [channels, height, width] for the models of images."""
    return np.random.default_rng(seed).standard_normal((2, 12, 12)).astype(np.float32)


def answer_image(model: nn.Module, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits [1, classes], or hidden states [1 + patches, width]."""
    with torch.no_grad():
        output = model(pixel_values=torch.from_numpy(image)[None])
    return np.asarray((output.logits if "logits" in output else output.last_hidden_state[0]).numpy())


def text(length: int, seed: int = 0, vocabulary: int = VOCABULARY) -> list[int]:
    """Token ids, none of them special."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, vocabulary, length)]


def difference(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference, relative to the range of the expected numbers."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / (expected.max() - expected.min()))
