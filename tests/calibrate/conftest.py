"""Tiny random models of architectures whose layers are called in different ways."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

VOCABULARY = 96
_DECODER = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _DECODER | {"tie_word_embeddings": False}),
    "gpt2": (
        "GPT2LMHeadModel", "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0},
    ),
    "neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _DECODER),
    "opt": ("OPTForCausalLM", "OPTConfig", _DECODER | {"ffn_dim": 80, "word_embed_proj_dim": 32}),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 2}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _DECODER | _EXPERTS),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", _DECODER | _EXPERTS | {"head_dim": 32}),
    "gemma3": (
        "Gemma3ForCausalLM", "Gemma3TextConfig",
        _DECODER | {"head_dim": 32, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
    ),
    "bert": (
        "BertForMaskedLM", "BertConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2},
    ),
    "t5": (
        "T5ForConditionalGeneration", "T5Config",
        {"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 32, "d_ff": 80, "num_layers": 2, "num_heads": 2},
    ),
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture
def make_model() -> Callable[[str], nn.Module]:
    """A random model, the same at every call; its head reads what its layers write, so that an error in them is seen."""

    def make(name: str) -> nn.Module:
        cls, config, settings = MODELS[name]
        torch.manual_seed(20)
        model: nn.Module = getattr(transformers, cls)(getattr(transformers, config)(**settings))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(4)
        return model.eval()

    return make


@pytest.fixture
def ids() -> torch.Tensor:
    """Tokens [9, 12]."""
    return torch.randint(3, VOCABULARY, (9, 12), generator=torch.Generator().manual_seed(5))
