"""Tiny random 16-bit models of several architectures, saved as ordinary checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
import transformers

DECODER = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 95,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 95}
T5 = {
    "vocab_size": 96, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0, "eos_token_id": 95, "pad_token_id": 0, "tie_word_embeddings": True,
}  # fmt: skip
BERT = {
    "vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A tiny architecture: class, configuration, and the auto class that loads it."""

    cls: str
    config: str
    values: dict[str, Any]
    auto: str = "AutoModelForCausalLM"


KINDS = {
    "llama": Kind("LlamaForCausalLM", "LlamaConfig", {**DECODER, "tie_word_embeddings": False}),
    "llama-tied": Kind("LlamaForCausalLM", "LlamaConfig", {**DECODER, "tie_word_embeddings": True}),
    "qwen2": Kind("Qwen2ForCausalLM", "Qwen2Config", {**DECODER, "tie_word_embeddings": True}),
    "qwen3": Kind("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, "head_dim": 16}),
    "gpt2": Kind("GPT2LMHeadModel", "GPT2Config", GPT2),
    "mixtral": Kind("MixtralForCausalLM", "MixtralConfig", {**DECODER, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "t5": Kind("T5ForConditionalGeneration", "T5Config", T5, "AutoModelForSeq2SeqLM"),
    "bert": Kind("BertForMaskedLM", "BertConfig", BERT, "AutoModelForMaskedLM"),
}
GENERATING = [name for name in KINDS if name != "bert"]


@dataclass(frozen=True)
class Checkpoint:
    """A saved 16- or 32-bit model."""

    name: str
    path: Path

    def load(self, path: Path | None = None, **kwargs: Any) -> Any:
        """The model of `path` (default: the checkpoint itself) by the right auto class."""
        return getattr(transformers, KINDS[self.name].auto).from_pretrained(path or self.path, **kwargs)

    def inputs(self) -> dict[str, torch.Tensor]:
        """Token ids for one forward pass."""
        ids = torch.randint(2, 95, (2, 9), generator=torch.Generator().manual_seed(3))
        return {"input_ids": ids, "decoder_input_ids": ids[:, :4]} if self.name == "t5" else {"input_ids": ids}

    def logits(self, model: Any) -> torch.Tensor:
        """Logits of `model` on `inputs`."""
        with torch.no_grad():
            return model(**self.inputs()).logits


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Checkpoint]:
    """`checkpoint(name, dtype=torch.float32)` → a tiny random model on the disk, made once."""
    made: dict[tuple[str, torch.dtype], Checkpoint] = {}

    def make(name: str, dtype: torch.dtype = torch.float32) -> Checkpoint:
        if (name, dtype) not in made:
            kind = KINDS[name]
            torch.manual_seed(7)
            model = getattr(transformers, kind.cls)(getattr(transformers, kind.config)(**kind.values))
            with torch.no_grad():
                for parameter in model.parameters():  # large enough that greedy choices are no ties, biases and norms not trivial
                    parameter.add_(torch.randn_like(parameter) * 0.08)
            path = tmp_path_factory.mktemp(f"{name}-{str(dtype).removeprefix('torch.')}")
            model.to(dtype).save_pretrained(path, max_shard_size="60KB")
            made[name, dtype] = Checkpoint(name, path)
        return made[name, dtype]

    return make
