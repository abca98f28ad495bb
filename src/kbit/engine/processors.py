"""Changes of the scores that depend on the tokens so far. Their order is that of transformers:

    logit bias → repetition penalty → presence and frequency penalty → no repeated n-gram

(transformers has no presence and frequency penalty; they stand with the other penalty and count the output alone, as in OpenAI's
interface.)
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kbit.engine.sampling_options import SamplingOptions

__all__ = ["process"]

Scores = NDArray[np.float32]
Tokens = NDArray[np.int32]


def process(scores: Scores, tokens: Tokens, prompt_length: int, options: SamplingOptions) -> Scores:
    """Scores after all processors that the options turn on.

    Args:
        scores: logits or log-probabilities, float32 [vocabulary]; not changed.
        tokens: prompt and output so far, int32.
        prompt_length: tokens of the prompt among them.
        options: what is on.

    Raises:
        SchemeError: a bias for a token outside the vocabulary.
    """
    active = [change for is_on, change in _PROCESSORS if is_on(options)]
    if not active:
        return scores
    changed = scores.copy()
    for change in active:
        change(changed, tokens, prompt_length, options)
    return changed


def _add_bias(scores: Scores, tokens: Tokens, prompt_length: int, options: SamplingOptions) -> None:
    options.check_vocabulary(len(scores))
    biased = np.fromiter(options.logit_bias.keys(), dtype=np.int64)
    scores[biased] += np.fromiter(options.logit_bias.values(), dtype=np.float32)


def _penalise_repetition(scores: Scores, tokens: Tokens, prompt_length: int, options: SamplingOptions) -> None:
    seen, penalty = scores[tokens], np.float32(options.repetition_penalty)
    scores[tokens] = np.where(seen < 0, seen * penalty, seen / penalty)


def _penalise_output(scores: Scores, tokens: Tokens, prompt_length: int, options: SamplingOptions) -> None:
    seen, counts = np.unique(tokens[prompt_length:], return_counts=True)
    scores[seen] -= np.float32(options.presence_penalty) + np.float32(options.frequency_penalty) * counts.astype(np.float32)


def _forbid_repeats(scores: Scores, tokens: Tokens, prompt_length: int, options: SamplingOptions) -> None:
    size = options.no_repeat_ngram
    if len(tokens) < size:
        return
    ngrams = sliding_window_view(tokens, size)
    begun = tokens[len(tokens) + 1 - size :]  # the next token completes an n-gram that begins with these
    scores[ngrams[(ngrams[:, :-1] == begun).all(axis=1), -1]] = -np.inf


_PROCESSORS: tuple[tuple[Callable[[SamplingOptions], bool], Callable[[Scores, Tokens, int, SamplingOptions], None]], ...] = (
    (lambda options: bool(options.logit_bias), _add_bias),
    (lambda options: options.repetition_penalty != 1, _penalise_repetition),
    (lambda options: options.presence_penalty != 0 or options.frequency_penalty != 0, _penalise_output),
    (lambda options: options.no_repeat_ngram > 0, _forbid_repeats),
)
