"""Log-probabilities that go with tokens: the model's own, before any processor."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TokenLogprob", "log_softmax", "token_logprob"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability under softmax of the logits.
        top: the likeliest tokens at this place with theirs, best first; of equals the lower id.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over the last dimension: float32 [..., vocabulary], summed in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float32)


def token_logprob(logprobs: NDArray[np.float32], token: int, top: int = 0) -> TokenLogprob:
    """The log-probability of one token, and of the `top` likeliest.

    Args:
        logprobs: float32 [vocabulary], from `log_softmax`.
        token: the token that came.
        top: how many of the likeliest to name.
    """
    return TokenLogprob(token, float(logprobs[token]), _likeliest(logprobs, min(top, len(logprobs))))


def _likeliest(logprobs: NDArray[np.float32], count: int) -> tuple[tuple[int, float], ...]:
    if count == 0:
        return ()
    least = np.partition(logprobs, -count)[-count]
    found = np.flatnonzero(logprobs >= least)
    best = found[np.argsort(-logprobs[found], kind="stable")][:count]
    return tuple((int(token), float(logprobs[token])) for token in best)
