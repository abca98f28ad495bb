"""Drafts from a cheaper model: a smaller one, or the same in fewer bits. It must read the same tokens."""

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import LimitError, ModelError
from kbit.engine.drafts import NO_DRAFT, Draft
from kbit.engine.draw import pick, uniform
from kbit.engine.history import History
from kbit.engine.prefill import prefill
from kbit.engine.sampling import choose, possible
from kbit.engine.sampling_options import SamplingOptions
from kbit.engine.stepper import Feed, Stepper

__all__ = ["DraftModel"]


class DraftModel:
    """Follows one sequence with a model of its own.

    Args:
        stepper: of the cheaper model.
        sampling: options of the sequence; drafts are chosen by them too, so that they are likely to be accepted.
        vocabulary: of the model that verifies.

    Raises:
        ModelError: the models have different vocabularies.
    """

    def __init__(self, stepper: Stepper, sampling: SamplingOptions, vocabulary: int) -> None:
        if stepper.vocabulary != vocabulary:
            raise ModelError(f"expected a draft model with the model's vocabulary of {vocabulary} tokens, got one of {stepper.vocabulary}")
        self._stepper, self._sampling = stepper, sampling
        self._sequence: int | None = None
        self._held: NDArray[np.int32] = np.empty(0, dtype=np.int32)  # tokens in the draft model's cache

    def propose(self, history: History, count: int) -> Draft:
        """`count` tokens, one step of the cheaper model each; none where its context or cache is full."""
        if self._stepper.context and len(history) + count > self._stepper.context:
            return NO_DRAFT
        try:
            return self._draft(history, count)
        except LimitError:
            self.close()
            return NO_DRAFT

    def close(self) -> None:
        """Give the sequence back."""
        if self._sequence is not None:
            self._stepper.free(self._sequence)
            self._sequence, self._held = None, self._held[:0]

    def _draft(self, history: History, count: int) -> Draft:
        tokens = history.tokens.copy()
        logits = self._catch_up(tokens)
        drawn: list[NDArray[np.float64]] = []
        for place in range(count):
            tokens = np.append(tokens, np.int32(self._next(logits, tokens, history.prompt_length, drawn)))
            if place < count - 1:
                logits = self._feed(tokens[-1:])
        return Draft(tuple(tokens[len(history) :].tolist()), np.stack(drawn) if drawn else None)

    def _catch_up(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Bring the cache to these tokens: logits after the last."""
        if self._sequence is None:
            self._sequence = self._stepper.sequence()
        common = min(len(self._held), len(tokens) - 1)
        differ = np.flatnonzero(self._held[:common] != tokens[:common])
        common = int(differ[0]) if len(differ) else common
        self._stepper.truncate(self._sequence, common)
        self._held = tokens[:common]
        logits = prefill(self._stepper, self._sequence, tokens[common:], lambda: False)
        assert logits is not None  # it never expires
        self._held = tokens
        return logits

    def _feed(self, token: NDArray[np.int32]) -> NDArray[np.float32]:
        assert self._sequence is not None  # `_catch_up` made it
        logits = self._stepper.step([Feed(self._sequence, token)])[0]
        self._held = np.append(self._held, token)
        return np.asarray(logits, dtype=np.float32)

    def _next(self, logits: NDArray[np.float32], tokens: NDArray[np.int32], prompt_length: int, drawn: list[NDArray[np.float64]]) -> int:
        if not self._sampling.draws:
            return choose(logits, tokens, prompt_length, self._sampling)
        drawn.append(possible(logits, tokens, prompt_length, self._sampling).dense(self._stepper.vocabulary))
        return pick(drawn[-1], uniform(self._sampling.seed, len(tokens), "draft"))
