"""The checks that every source of logits makes."""

import math

import torch

from kbit.core.errors import ModelError, NumericsError, ShapeError
from kbit.evaluate.windows import Window, Windows

__all__ = ["check_finite", "check_windows"]


def check_finite(row: torch.Tensor, window: Window) -> None:
    """Refuse logits [tokens, vocabulary] of a window's scored targets that hold NaN or Inf (`NumericsError` names the place)."""
    # the sum is NaN or Inf if any element is; only then is it worth finding out which
    if math.isfinite(float(row.sum())) or bool(torch.isfinite(row).all()):
        return
    token, entry = (int(i) for i in (~torch.isfinite(row)).nonzero()[0])
    place = f"window {window.index}, token {window.first + token}, entry {entry}"
    raise NumericsError(f"expected finite logits, got {float(row[token, entry])} in {place}")


def check_windows(windows: Windows, positions: int | None, vocabulary: int) -> None:
    """Refuse a context beyond a model's positions and token ids beyond its vocabulary.

    Raises:
        ShapeError: the context is too long.
        ModelError: the tokenizer is not this model's.
    """
    if positions is not None and windows.protocol.context > positions:
        raise ShapeError(f"expected a context within the model's {positions} positions, got {windows.protocol.context}")
    if windows.largest_id >= vocabulary:
        got = f"{windows.largest_id}: another model's tokenizer?"
        raise ModelError(f"expected token ids below the vocabulary of {vocabulary}, got {got}")
