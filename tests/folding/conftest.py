"""Tiny random models whose heads can be rotated, and what is folded in each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
import transformers
from tests.engine.models import Kind, build_kind
from torch import nn

_LLAMA = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "head_dim": 16,
    "tie_word_embeddings": False,
}  # fmt: skip
_WIDE = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_GPT2 = {"vocab_size": 97, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}


@dataclass(frozen=True)
class Case:
    """A model, and whether values and stream are folded in it."""

    kind: Kind
    values: bool
    stream: bool


def _llama(settings: dict[str, Any], *, values: bool = True, stream: bool = True, name: str = "Llama") -> Case:
    return Case(Kind(f"{name}ForCausalLM", f"{name}Config", _LLAMA | settings), values, stream)


CASES: dict[str, Case] = {
    "llama": _llama({}),
    "llama_head48_biased": _llama({"head_dim": 48, "attention_bias": True, "mlp_bias": True}),
    "llama_head80": _llama({"head_dim": 80, "num_key_value_heads": 1}),
    "llama_head24": _llama({"head_dim": 24}, values=False),
    "llama_tied": _llama({"head_dim": 32, "tie_word_embeddings": True}, stream=False),
    "llama_width40": _llama({"hidden_size": 40}, values=False, stream=False),
    "qwen2": _llama({"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}, name="Qwen2"),
    "qwen3": _llama({"attention_bias": True, "head_dim": 48}, name="Qwen3"),
    "granite": _llama(
        {"attention_bias": True, "embedding_multiplier": 3.0, "residual_multiplier": 0.6, "logits_scaling": 4.0}, name="Granite"
    ),
    "gemma_untied": _llama({"attention_bias": True}, name="Gemma"),
    "gemma2": _llama({"query_pre_attn_scalar": 24, **_SLIDING}, stream=False, name="Gemma2"),
    "mixtral": _llama({"num_local_experts": 5, "num_experts_per_tok": 2}, name="Mixtral"),
    "qwen3_moe": _llama(
        {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "decoder_sparse_step": 2}, name="Qwen3Moe"
    ),
    "phi3": Case(Kind("Phi3ForCausalLM", "Phi3Config", _WIDE | {"num_key_value_heads": 2}), True, True),
    "neox": Case(Kind("GPTNeoXForCausalLM", "GPTNeoXConfig", _WIDE), True, False),
    "phi": Case(Kind("PhiForCausalLM", "PhiConfig", _WIDE), True, False),
    "cohere": Case(Kind("CohereForCausalLM", "CohereConfig", _WIDE | {"num_key_value_heads": 2}), True, False),
    "gpt2": Case(Kind("GPT2LMHeadModel", "GPT2Config", _GPT2), True, False),
    "opt": Case(Kind("OPTForCausalLM", "OPTConfig", _WIDE | {"ffn_dim": 80}), True, False),
    "bloom": Case(Kind("BloomForCausalLM", "BloomConfig", _GPT2), True, False),
    "bert": Case(Kind("BertForMaskedLM", "BertConfig", _WIDE), True, False),
}


def build(name: str) -> nn.Module:
    """The model of a case."""
    return build_kind(CASES[name].kind)


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """(name of a case, dtype) → folder of the model."""
    made: dict[tuple[str, torch.dtype], Any] = {}

    def make(name: str, dtype: torch.dtype = torch.float32) -> Any:
        if (name, dtype) not in made:
            made[name, dtype] = tmp_path_factory.mktemp(name)
            build(name).to(dtype).save_pretrained(made[name, dtype])
        return made[name, dtype]

    return make
