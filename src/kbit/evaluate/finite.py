"""The check that every source of logits makes."""

import math

import torch

from kbit.core.errors import NumericsError
from kbit.evaluate.windows import Window

__all__ = ["check_finite"]


def check_finite(row: torch.Tensor, window: Window) -> None:
    """Refuse logits [tokens, vocabulary] of a window's scored targets that hold NaN or Inf (`NumericsError` names the place)."""
    # the sum is NaN or Inf if any element is; only then is it worth finding out which
    if math.isfinite(float(row.sum())) or bool(torch.isfinite(row).all()):
        return
    token, entry = (int(i) for i in (~torch.isfinite(row)).nonzero()[0])
    place = f"window {window.index}, token {window.first + token}, entry {entry}"
    raise NumericsError(f"expected finite logits, got {float(row[token, entry])} in {place}")
