"""Calibration without a text: the model writes one itself, drawn from its own distribution by a seed.

Liu et al.: "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models" (2023) found that what a model writes calibrates it
about as well as what it was trained on. Every window begins with the BOS token and is drawn token by token at temperature 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.calibrate.text import CalibrationWindows, check_amounts
from kbit.core.errors import ModelError
from kbit.core.progress import Progress

__all__ = ["GeneratedText", "first_token"]

#: windows that are written side by side
_BATCH = 64


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """How much a model is to write for its calibration.

    Attributes:
        tokens: about so many tokens: whole windows, at least one.
        context: tokens a window; a model with fewer positions takes windows of that many.
        seed: what the tokens are drawn by.
    """

    tokens: int = 131_072
    context: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        check_amounts(self)

    def windows(self, model: nn.Module, start: int, *, positions: int | None = None, progress: bool | None = False) -> CalibrationWindows:
        """The windows that `model`, a causal one of transformers in main memory, writes after the token `start`.

        Same model, seed and machine: same tokens.

        Raises:
            ModelError: it does not write, or its logits are not finite.
        """
        context = self.context if positions is None else min(self.context, positions)
        count = max(1, self.tokens // context)
        draw = np.random.default_rng(self.seed)
        training = model.training
        model.eval()
        with Progress(count * context, "tokens", "self-calibration", enabled=progress) as line:
            batches = []
            for begin in range(0, count, _BATCH):
                batches.append(_written(model, start, min(_BATCH, count - begin), context, draw))
                line.advance(batches[-1].size, f"window {begin + len(batches[-1])} of {count}")
        model.train(training)
        return CalibrationWindows(np.concatenate(batches), self.seed)


def first_token(config: Any) -> int:
    """The token that a text of a model with this configuration begins with: BOS, or EOS where it has none.

    Raises:
        ModelError: it names neither.
    """
    for key in ("bos_token_id", "eos_token_id"):
        value = config.get(key)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    raise ModelError(
        "calibration on what the model writes begins with its BOS token, and config.json has neither bos_token_id nor eos_token_id"
    )


@torch.no_grad()
def _written(model: nn.Module, start: int, count: int, context: int, draw: np.random.Generator) -> NDArray[np.int64]:
    ids = np.full((count, context), start, np.int64)
    cache = None
    for place in range(1, context):
        out = model(input_ids=torch.from_numpy(ids[:, place - 1 : place]), past_key_values=cache, use_cache=True)
        cache = getattr(out, "past_key_values", None)
        if cache is None:
            raise ModelError(f"calibration on what the model writes needs a causal model with a cache, got {type(model).__name__}")
        ids[:, place] = _drawn(out.logits[:, -1].float().numpy().astype(np.float64), draw.random(count), type(model).__name__)
    return ids


def _drawn(logits: NDArray[np.float64], uniform: NDArray[np.float64], name: str) -> NDArray[np.int64]:
    """A token for each row of `logits`, by the inverse of the cumulated distribution."""
    if not np.isfinite(logits.max(1)).all() or np.isnan(logits).any():
        raise ModelError(f"expected finite logits of {name}, got NaN or Inf")
    mass = np.cumsum(np.exp(logits - logits.max(1, keepdims=True)), axis=1)
    chosen = (mass <= uniform[:, None] * mass[:, -1:]).sum(1)
    return np.asarray(np.minimum(chosen, logits.shape[1] - 1), np.int64)
