"""Beam search: the best of several continuations, kept side by side. Token for token what transformers' `generate(num_beams=…)` finds.

Each step scores all continuations of all running beams, score(beam) + log p(token), and takes the best (1 + ends) · beams of them. Those
that end the text finish if they are among the best `beams`, the best `beams` of the others run on. Finished ones are compared by
score / length ** length_penalty, and the best `beams` of them are kept. All arithmetic on scores is float32, as in transformers.

A beam is a sequence of the KV cache: the first child of a beam takes over its sequence, further ones fork it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kbit.engine.beam_options import BeamOptions
from kbit.engine.candidates import candidates
from kbit.engine.draw import uniforms
from kbit.engine.logprobs import TokenLogprob, log_softmax, token_logprob
from kbit.engine.prefill import prefill
from kbit.engine.processors import process
from kbit.engine.sampling import check_logits
from kbit.engine.sampling_options import SamplingOptions
from kbit.engine.stepper import Feed, Stepper

__all__ = ["BeamSearch", "Hypothesis"]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One continuation.

    Attributes:
        tokens: prompt and output, int32.
        score: of a running one its log-probability, of a finished one that by its length (see the module).
        logprobs: of the output's tokens, if asked for.
    """

    tokens: NDArray[np.int32]
    score: np.float32
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class _Continuation:
    """A running beam with one more token."""

    beam: int
    token: int
    hypothesis: Hypothesis
    ended: bool


class BeamSearch:
    """One search.

    Args:
        stepper: of the model.
        options: beams, and how they are weighed.
        sampling: processors are applied to log-probabilities; above temperature 0 continuations are drawn, without putting back.
        max_tokens: output at most.
        ends: tokens that end the text.
        finishes: says of an output, int32 [length], whether it ends for another reason (a stop string); None for never.
        logprobs: None, or how many of the likeliest tokens to name beside each token of the output.

    Attributes:
        expired: a deadline or a cancellation ended the search before its time.
    """

    def __init__(
        self,
        stepper: Stepper,
        options: BeamOptions,
        sampling: SamplingOptions,
        *,
        max_tokens: int,
        ends: frozenset[int] = frozenset(),
        finishes: Callable[[NDArray[np.int32]], bool] | None = None,
        logprobs: int | None = None,
    ) -> None:
        self._stepper, self._options, self._sampling = stepper, options, sampling
        self._max_tokens, self._ends, self._finishes, self._logprobs = max_tokens, ends, finishes, logprobs
        self._running: list[Hypothesis] = []
        self._finished: list[Hypothesis] = []
        self._sequences: list[int] = []  # of the running beams
        self._live: set[int] = set()  # all that must be freed in the end
        self.expired = False

    def run(
        self, prompt: Sequence[int], expired: Callable[[], bool] = lambda: False, began: Callable[[], None] = lambda: None
    ) -> list[Hypothesis]:
        """The best continuations, best first; where it `expired`, the best so far.

        Args:
            prompt: token ids, at least one.
            expired: asked before each step.
            began: called once the prompt is in the cache.

        Raises:
            LimitError: the cache cannot hold the beams.
            NumericsError: NaN or Inf among the logits.
            SchemeError: a bias for a token outside the vocabulary.
        """
        self._sampling.check_vocabulary(self._stepper.vocabulary)
        tokens = np.array(prompt, dtype=np.int32)
        self._prompt_length = len(tokens)
        try:
            self._sequences = [self._stepper.sequence()]
            self._live.update(self._sequences)
            logits = prefill(self._stepper, self._sequences[0], tokens, expired)
            self._running = [Hypothesis(tokens, np.float32(0))]
            began()
            self._search(None if logits is None else logits[None], expired)
        finally:
            for sequence in self._live:
                self._stepper.free(sequence)
            self._live.clear()
        return self._best()

    def _search(self, logits: NDArray[np.float32] | None, expired: Callable[[], bool]) -> None:
        while logits is not None:
            found = self._continuations(logits)
            self._finish(found[: self._options.beams])
            going_on = [one for one in found if not one.ended][: self._options.beams]
            if not going_on or not self._may_improve(going_on[0].hypothesis):
                self._running = [] if found else self._running  # with nothing to go on to, those that ran are the best there is
                return
            logits = self._advance(going_on, expired)
        self.expired = True

    def _continuations(self, logits: NDArray[np.float32]) -> list[_Continuation]:
        """The best continuations of all beams, best first (drawn ones in the order of the draw)."""
        for row in logits:
            check_logits(row)
        logprobs = log_softmax(logits)
        scores = np.stack([self._scores(row, beam) for row, beam in zip(logprobs, self._running, strict=True)])
        count = max(2, 1 + len(self._ends)) * self._options.beams
        picked = _best_places(self._keys(scores), count)
        picked = picked[scores.reshape(-1)[picked] > -np.inf]
        places = [divmod(int(place), scores.shape[1]) for place in picked]
        return [self._continuation(beam, token, scores, logprobs) for beam, token in places]

    def _scores(self, logprobs: NDArray[np.float32], beam: Hypothesis) -> NDArray[np.float32]:
        scores = process(logprobs, beam.tokens, self._prompt_length, self._sampling)
        if self._sampling.draws:
            left = candidates(scores, self._sampling, keep=1 + len(self._ends)).ids
            warped = np.full_like(scores, -np.inf)
            warped[left] = scores[left] / np.float32(self._sampling.temperature)
            scores = warped
        return np.asarray(scores + beam.score, dtype=np.float32)

    def _keys(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """What continuations are ranked by: scores, or a draw without putting back (scores plus Gumbel noise, Kool et al. 2019)."""
        flat = scores.reshape(-1).astype(np.float64)
        if not self._sampling.draws:
            return flat
        chances = uniforms(self._sampling.seed, len(self._running[0].tokens), "beams", len(flat)) + 2.0**-54
        return np.asarray(flat - np.log(-np.log(chances)), dtype=np.float64)

    def _continuation(self, beam: int, token: int, scores: NDArray[np.float32], logprobs: NDArray[np.float32]) -> _Continuation:
        before = self._running[beam]
        tokens = np.append(before.tokens, np.int32(token))
        named = before.logprobs
        if self._logprobs is not None:
            named = (*named, token_logprob(logprobs[beam], token, self._logprobs))
        return _Continuation(beam, token, Hypothesis(tokens, scores[beam, token], named), self._has_ended(tokens))

    def _has_ended(self, tokens: NDArray[np.int32]) -> bool:
        output = tokens[self._prompt_length :]
        if int(output[-1]) in self._ends or len(output) >= self._max_tokens:
            return True
        return self._finishes is not None and self._finishes(output)

    def _finish(self, best: list[_Continuation]) -> None:
        new = [self._by_length(one.hypothesis) for one in best if one.ended]
        self._finished = sorted([*self._finished, *new], key=lambda one: one.score, reverse=True)[: self._options.beams]

    def _by_length(self, hypothesis: Hypothesis) -> Hypothesis:
        length = len(hypothesis.tokens) - self._prompt_length
        return Hypothesis(hypothesis.tokens, self._normalized(hypothesis.score, length), hypothesis.logprobs)

    def _normalized(self, score: np.float32, length: int) -> np.float32:
        return np.float32(score / np.float32(max(length, 1) ** self._options.length_penalty))

    def _may_improve(self, best_running: Hypothesis) -> bool:
        """Not all beams have finished, or a running one may still be better than the worst of them."""
        if len(self._finished) < self._options.beams:
            return True
        if self._options.early_stopping is True:
            return False
        to_the_end = self._options.early_stopping == "never" and self._options.length_penalty > 0
        length = self._max_tokens if to_the_end else len(best_running.tokens) - self._prompt_length
        return bool(self._normalized(best_running.score, length) > self._finished[-1].score)

    def _advance(self, going_on: list[_Continuation], expired: Callable[[], bool]) -> NDArray[np.float32] | None:
        self._running = [one.hypothesis for one in going_on]
        if expired():
            return None
        self._reseat([one.beam for one in going_on])
        feeds = [Feed(sequence, (one.token,)) for sequence, one in zip(self._sequences, going_on, strict=True)]
        return self._stepper.step(feeds)

    def _reseat(self, parents: list[int]) -> None:
        """Sequences of the beams that go on: those without a child are freed first, so that forks may have their place."""
        for beam, sequence in enumerate(self._sequences):
            if beam not in parents:
                self._live.remove(sequence)
                self._stepper.free(sequence)
        seats = [self._seat(parent, first=parent not in parents[:place]) for place, parent in enumerate(parents)]
        self._sequences = seats

    def _seat(self, parent: int, *, first: bool) -> int:
        if first:
            return self._sequences[parent]
        fork = self._stepper.fork(self._sequences[parent])
        self._live.add(fork)
        return fork

    def _best(self) -> list[Hypothesis]:
        """The finished, and where they are too few, the running ones."""
        running = sorted(map(self._by_length, self._running), key=lambda one: one.score, reverse=True)
        return [*self._finished, *running][: self._options.returned]


def _best_places(keys: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest, largest first; of equals the lower index."""
    least = np.partition(keys, -count)[-count] if count < len(keys) else -np.inf
    places = np.flatnonzero(keys >= least)
    return places[np.argsort(-keys[places], kind="stable")][:count]
