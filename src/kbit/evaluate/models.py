"""Models and tokenizers from folders, packed or plain."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbit.core.errors import MissingExtraError, ModelError, SchemeError
from kbit.core.registry import suggest
from kbit.kernels import MODES
from kbit.store.check import check_folder
from kbit.store.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import torch

__all__ = ["is_packed", "load_causal_model", "load_tokenizer"]

_CAUSAL = ("ForCausalLM", "LMHeadModel")


def load_causal_model(path: Path, *, mode: str = "fast") -> "torch.nn.Module":
    """A causal language model in eval mode: a k-bit folder on kbit's kernels, any other as it is; both in float32.

    Args:
        path: its folder.
        mode: arithmetic of the packed layers, ``fast`` or ``exact``.

    Raises:
        ModelError: not a causal language model, or one that transformers cannot load.
        SchemeError: an unknown mode.
        MissingExtraError: transformers is not installed.
    """
    if mode not in MODES:
        raise SchemeError(f"unknown mode {mode!r}: {suggest(mode, MODES)}")
    config = check_folder(path)
    architectures = config.get("architectures") or ["none"]
    if not str(architectures[0]).endswith(_CAUSAL):
        raise ModelError(f"expected a causal language model in {path}, got {architectures[0]}")
    if is_packed(config):
        import torch

        from kbit.model.load import load

        # float32 as for the original: activations in bfloat16 would cost more than 8-bit weights do
        model: torch.nn.Module = load(path, mode=mode, dtype=torch.float32)
        return model.eval()
    return _load_plain(path)


def is_packed(config: dict[str, Any]) -> bool:
    """Whether a model's configuration says that kbit packed it."""
    quantization = config.get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == "kbit"


def _load_plain(path: Path) -> "torch.nn.Module":
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise MissingExtraError(error.name or "transformers", "hf") from None
    try:
        model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"transformers cannot load {path} as a causal language model: {error}") from error
    return model.eval()
