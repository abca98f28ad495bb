"""A recipe's architecture → a model with fresh weights; a trained model → a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from kbit.core.errors import MissingExtraError, SchemeError
from kbit.core.registry import suggest
from kbit.core.shown import shown
from kbit.train.recipe import SizeRecipe

__all__ = ["build_model", "optimizer_for", "save_model"]


def build_model(size: SizeRecipe, tokenizer: Tokenizer, end: int, source: str) -> torch.nn.Module:
    """The model of one size, weights by the recipe's seed.

    Args:
        size: its config's fields; ``vocab_size``, ``max_position_embeddings`` and the end-of-text ids follow from tokenizer and context
            where they are not given.
        tokenizer: of the family.
        end: its end-of-text token.
        source: the recipe's file, for messages.

    Raises:
        SchemeError: a field that the architecture does not know, or values of which no model can be made.
        MissingExtraError: transformers is not installed.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        raise MissingExtraError("transformers", "hf") from None
    where = f"{source}: sizes.{size.name}"
    given: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": size.options.context,
        "bos_token_id": end,
        "eos_token_id": end,
        **size.architecture,
    }
    kind = given.pop("model_type", None)
    if not isinstance(kind, str):
        raise SchemeError(f"{source}: architecture.model_type: expected a text such as 'llama', got {shown(kind)}")
    try:
        known = AutoConfig.for_model(kind)
    except (ValueError, KeyError):
        raise SchemeError(f"{source}: architecture.model_type: transformers has no architecture {shown(kind)}") from None
    _check_fields(given, known, where)
    if given["vocab_size"] < tokenizer.get_vocab_size():
        raise SchemeError(
            f"{where}: expected vocab_size of at least the tokenizer's {tokenizer.get_vocab_size()}, got {given['vocab_size']}"
        )
    torch.manual_seed(size.options.seed)
    try:
        model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given), dtype=torch.float32)
    except Exception as error:  # transformers and torch raise whatever the values lead to
        raise SchemeError(f"{where}: no causal language model can be made of it: {error}") from None
    return model


def _check_fields(given: Mapping[str, Any], config: Any, where: str) -> None:
    known = set(config.to_dict()) | set(config.attribute_map) | {"head_dim", "tie_word_embeddings"}
    for key in given:
        if key not in known:
            raise SchemeError(f"{where}: unknown word {shown(key)} for architecture or training: {suggest(key, known)}")


def optimizer_for(model: torch.nn.Module, size: SizeRecipe) -> torch.optim.Optimizer:
    """AdamW, as one kernel where there is a GPU; vectors (norms, biases) are not decayed."""
    options = size.options
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=options.learning_rate, betas=(options.beta1, options.beta2), fused=torch.cuda.is_available() or None
    )


def save_model(model: Any, tokenizer_folder: Path, folder: Path, precision: str) -> None:
    """Config, weights (bfloat16 after bf16 training, else float32) and tokenizer into an empty folder."""
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32).save_pretrained(folder)
    for file in sorted(tokenizer_folder.glob("tokenizer*.json")):
        (folder / file.name).write_bytes(file.read_bytes())
