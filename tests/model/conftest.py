"""Tiny random models of the architectures that matter, and checkpoints of them on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kbit.calibrate import CalibrationWindows
from kbit.store.folder import open_model

transformers = pytest.importorskip("transformers")

VOCABULARY = 96

_DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_ENCODER = {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2}

#: name → (class, configuration class, settings)
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _DECODER | {"tie_word_embeddings": False}),
    "llama_tied": ("LlamaForCausalLM", "LlamaConfig", _DECODER | {"tie_word_embeddings": True}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0},
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        _DECODER | {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 32},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        "GptOssConfig",
        _DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "pad_token_id": 0, "eos_token_id": 0},
    ),
    "bert": ("BertForMaskedLM", "BertConfig", _ENCODER | {"vocab_size": VOCABULARY, "max_position_embeddings": 64}),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 32, "d_ff": 80, "num_layers": 2, "num_heads": 2},
    ),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 80,
            "decoder_ffn_dim": 80,
            "max_position_embeddings": 64,
            "scale_embedding": True,
        },
    ),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _DECODER | {"head_dim": 32, "layer_types": ["full_attention"] * 2}),
    "vit": ("ViTForImageClassification", "ViTConfig", _ENCODER | {"image_size": 32, "patch_size": 8, "num_labels": 5}),
}


def build(name: str) -> nn.Module:
    """A random model of `MODELS`, the same at every call."""
    cls, config, settings = MODELS[name]
    torch.manual_seed(20)
    model = getattr(transformers, cls)(getattr(transformers, config)(**settings))
    for module in model.modules():  # biases are drawn as zeros, and would hide a forgotten one
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            nn.init.normal_(module.bias, std=0.02)
    return model.eval()


def run(model: nn.Module, name: str) -> torch.Tensor:
    """Logits on a fixed input."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, VOCABULARY, (2, 12), generator=generator)
    with torch.no_grad():
        if name == "vit":
            return model(torch.randn(2, 3, 32, 32, generator=generator)).logits
        if name in ("t5", "bart"):
            return model(input_ids=ids, decoder_input_ids=ids[:, :5]).logits
        return model(input_ids=ids).logits


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(name, dtype, max_shard_size) → folder of the model, saved by transformers."""
    made: dict[tuple[str, torch.dtype, str], Path] = {}

    def make(name: str, dtype: torch.dtype = torch.float32, max_shard_size: str = "1GB") -> Path:
        key = name, dtype, max_shard_size
        if key not in made:
            folder = tmp_path_factory.mktemp(f"checkpoint-{name}")
            build(name).to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture
def windows() -> CalibrationWindows:
    return CalibrationWindows(np.random.default_rng(0).integers(3, VOCABULARY, (6, 16)), seed=7)


def arrays(folder: Path) -> dict[str, bytes]:
    with open_model(folder) as stored:
        return {name: stored.array(name).tobytes() for name in stored.names()}
