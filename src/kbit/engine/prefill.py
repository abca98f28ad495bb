"""A prompt into the cache of one sequence, some tokens a step, so that the caller is asked in between whether it still wants it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kbit.engine.stepper import Feed, Stepper

__all__ = ["PREFILL_TOKENS", "prefill"]

#: tokens of a prompt in one step: enough to keep the kernels busy, few enough to answer within a moment
PREFILL_TOKENS = 256


def prefill(stepper: Stepper, sequence: int, tokens: NDArray[np.int32], expired: Callable[[], bool]) -> NDArray[np.float32] | None:
    """Feed the tokens that come after those in the sequence: logits after the last, float32 [vocabulary].

    Args:
        stepper: of the model.
        sequence: handle; it holds a beginning of what `tokens` continues.
        tokens: at least one, int32.
        expired: asked before each step.

    Returns:
        None where `expired` said so before the end.

    Raises:
        LimitError: the cache is full.
    """
    for begin in range(0, len(tokens), PREFILL_TOKENS):
        if expired():
            return None
        is_last = begin + PREFILL_TOKENS >= len(tokens)
        logits = stepper.step([Feed(sequence, tokens[begin : begin + PREFILL_TOKENS].tolist(), "last" if is_last else "none")])
    return np.asarray(logits[0], dtype=np.float32)
