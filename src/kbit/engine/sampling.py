"""From logits to the next token: processors, then the likeliest, or temperature, filters and a draw."""

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import NumericsError
from kbit.engine.candidates import Candidates, candidates
from kbit.engine.draw import pick, uniform
from kbit.engine.processors import process
from kbit.engine.sampling_options import SamplingOptions

__all__ = ["check_logits", "choose", "choose_from", "possible"]


def choose(logits: NDArray[np.float32], tokens: NDArray[np.int32], prompt_length: int, options: SamplingOptions) -> int:
    """The token that follows.

    Args:
        logits: float32 [vocabulary].
        tokens: prompt and output so far, int32.
        prompt_length: tokens of the prompt among them.
        options: how.

    Raises:
        NumericsError: NaN or Inf among the logits, or no token that may follow.
        SchemeError: a bias for a token outside the vocabulary.
    """
    if options.draws:
        return choose_from(possible(logits, tokens, prompt_length, options), options.seed, len(tokens))
    check_logits(logits)
    scores = process(logits, tokens, prompt_length, options)
    best = int(scores.argmax())
    _check_choice(float(scores[best]))
    return best


def possible(logits: NDArray[np.float32], tokens: NDArray[np.int32], prompt_length: int, options: SamplingOptions) -> Candidates:
    """The tokens that a draw is made from; arguments and errors as `choose`."""
    check_logits(logits)
    scores = process(logits, tokens, prompt_length, options)
    _check_choice(float(scores.max()))
    return candidates(scores, options)


def choose_from(left: Candidates, seed: int, position: int) -> int:
    """Draw one of the candidates for this position of the sequence."""
    return int(left.ids[pick(left.probabilities(), uniform(seed, position))])


def check_logits(logits: NDArray[np.float32]) -> None:
    """Logits from which a token can be chosen; -inf may stand for tokens that the model rules out.

    Raises:
        NumericsError: NaN, +inf, or -inf everywhere.
    """
    largest = float(logits.max())  # NaN if there is any
    if not np.isfinite(largest):
        raise NumericsError(f"expected finite logits, got {largest} for {np.count_nonzero(~np.isfinite(logits))} of {len(logits)} tokens")


def _check_choice(best: float) -> None:
    if not np.isfinite(best):
        raise NumericsError(f"expected a token that may follow, got a best score of {best} after the processors (are all forbidden?)")
