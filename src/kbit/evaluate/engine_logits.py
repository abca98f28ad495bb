"""Logits from kbit's engine: what a packed model says where it really runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch

from kbit.core.errors import ModelError
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.evaluate.source_checks import check_finite, check_windows
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
    def load(cls, path: Path | str, *, mode: str = "fast", bits: int | None = None) -> Self:
        """The engine over a model's folder (errors as `Engine.load`)."""
        return cls(Engine.load(path, mode=mode, cache="fp32", bits=bits))

    def check(self, windows: Windows) -> None:
        """See `check_windows`."""
        check_windows(windows, self.positions, self.vocabulary)

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
