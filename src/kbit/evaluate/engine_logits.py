"""Logits from kbit's engine: what a packed model says where it really runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch

from kbit.core.errors import ModelError, ShapeError
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.evaluate.finite import check_finite
from kbit.evaluate.windows import Window, Windows

__all__ = ["EngineLogits"]


class EngineLogits:
    """A `LogitSource` over an engine. Its cache is fp32 when `load` makes it, so that the figures are of the weights alone.

    Raises:
        ModelError: an encoder.
    """

    def __init__(self, engine: Engine) -> None:
        if not engine.plan.causal:
            raise ModelError(f"expected a causal language model, got {engine.plan.architecture}, an encoder")
        self.engine, self.vocabulary = engine, engine.vocabulary
        self.positions = engine.context or None

    @classmethod
    def load(cls, path: Path | str, *, mode: str = "fast") -> Self:
        """The engine over a model's folder (errors as `Engine.load`)."""
        return cls(Engine.load(path, mode=mode, cache="fp32"))

    def check(self, windows: Windows) -> None:
        """Refuses a context beyond the model's positions and token ids beyond its vocabulary.

        Raises:
            ShapeError: the context is too long.
            ModelError: the tokenizer is not this model's.
        """
        if self.positions is not None and windows.protocol.context > self.positions:
            raise ShapeError(f"expected a context within the model's {self.positions} positions, got {windows.protocol.context}")
        if windows.largest_id >= self.vocabulary:
            got = f"{windows.largest_id}: another model's tokenizer?"
            raise ModelError(f"expected token ids below the vocabulary of {self.vocabulary}, got {got}")

    def rows(self, batch: Sequence[Window]) -> list[torch.Tensor]:
        """Logits at the scored targets.

        Raises:
            NumericsError: NaN or Inf among the logits; names window and token.
        """
        return [self._window(window) for window in batch]

    def _window(self, window: Window) -> torch.Tensor:
        sequence = self.engine.sequence()
        try:
            logits = torch.from_numpy(self.engine.step([Feed(sequence, window.inputs.tolist(), "all")])[window.first :])
        finally:
            self.engine.free(sequence)
        check_finite(logits, window)
        return logits
