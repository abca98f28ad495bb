"""`Meter`: KL divergence of a model with one weight changed from the model itself, on a few windows.

Only the layers from the changed one on are run: the hidden states before it are kept. The original's log-probabilities are kept for
positions at even distances: as many as fit into `MOST_ELEMENTS`, and at least `LEAST_POSITIONS`.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.allocate.encodings import replaced
from kbit.calibrate.walk import LayerWalk
from kbit.core.errors import ModelError, NumericsError
from kbit.nn.targets import Target

__all__ = ["LEAST_POSITIONS", "MOST_ELEMENTS", "Meter"]

#: log-probabilities of the original that are kept (32 MiB of float32)
MOST_ELEMENTS = 1 << 23
LEAST_POSITIONS = 1024


class Meter:
    """Runs windows through the rest of a model; use as a context manager.

    Args:
        model: in float32; it is whole again after each call.
        ids: windows of tokens [windows, context].
    """

    def __init__(self, model: nn.Module, ids: NDArray[np.int64]) -> None:
        self._model = model
        self._walk = LayerWalk(model, torch.from_numpy(ids))
        self._at = 0
        self._reference: list[torch.Tensor] = []
        self.tokens = int(ids.size)

    def __enter__(self) -> Self:
        self._walk.__enter__()
        self._walk.start()
        stride = 1
        for logits in self._answers(0):
            if not self._reference:
                stride = max(1, self.tokens // max(LEAST_POSITIONS, MOST_ELEMENTS // logits.shape[-1]))
            kept = logits.reshape(-1, logits.shape[-1])[::stride]
            if not torch.isfinite(kept).all():
                raise NumericsError("expected finite logits from the original model on the calibration text, got NaN or Inf")
            self._reference.append(torch.log_softmax(kept.float(), dim=1))
        self._stride = stride
        self.tokens = sum(len(rows) for rows in self._reference)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._walk.__exit__(kind, error, trace)

    def advance(self, layer: int) -> None:
        """Go on to `layer`: weights of the layers before it cannot be changed any more."""
        while self._at < layer:
            self._walk.run(self._at, keep=True)
            self._at += 1

    def divergence(self, target: Target, values: NDArray[np.float32]) -> float:
        """KL(original ‖ model with `values` for the weight of `target`), nats a token; infinite where logits are not finite."""
        total = 0.0
        with replaced(self._model, target, values):
            for logits, log_p in zip(self._answers(self._at), self._reference, strict=True):
                rows = logits.reshape(-1, logits.shape[-1])[:: self._stride].float()
                log_q = torch.log_softmax(rows, dim=1)
                found = float((log_p.exp() * (log_p - log_q)).sum(dtype=torch.float64))
                if not np.isfinite(found):
                    return float("inf")
                total += found
        return max(total / self.tokens, 0.0)

    def _answers(self, layer: int) -> Iterator[torch.Tensor]:
        with torch.no_grad():
            for _, answer in self._walk.rest(layer):
                yield _logits(answer, self._model)


def _logits(answer: Any, model: nn.Module) -> torch.Tensor:
    logits = getattr(answer, "logits", None)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3:
        raise ModelError(f"sensitivity is measured by what a language model predicts; {type(model).__name__} answers without logits")
    return logits
