"""A request that takes part in a batch: its place in the cache, and what each row of logits adds to its output."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import LimitError
from kbit.engine.drafts import NO_DRAFT, Draft
from kbit.engine.history import History
from kbit.engine.logprobs import log_softmax, token_logprob
from kbit.engine.payoff import Payoff
from kbit.engine.request import FinishReason, Output, Request
from kbit.engine.speculate import judge

__all__ = ["Member"]


class Member:
    """One request in the batch.

    Its state is simple enough to survive anything: `fed` tokens of the history are known to be in the cache, the rest is what the next
    steps feed. After a preemption it is 0, and the history, output included, is fed again.

    Args:
        output: what it adds to.
        order: of arrival.
        context: of the model; 0 for no limit.
        clock: seconds.

    Attributes:
        sequence: handle in the cache; None while it waits.
        fed: tokens of the history that the sequence holds.
        payoff: whether drafts pay.
    """

    def __init__(self, output: Output, order: int, context: int, clock: Callable[[], float]) -> None:
        self.output, self.order, self._clock = output, order, clock
        self.sequence: int | None = None
        self.fed = 0
        self.payoff = Payoff()
        longest = len(output.request.prompt) + output.request.max_tokens
        self._longest = min(longest, context) if context else longest

    @property
    def request(self) -> Request:
        """What was asked."""
        return self.output.request

    @property
    def history(self) -> History:
        """Tokens so far."""
        return self.output.history

    @property
    def pending(self) -> int:
        """Tokens to feed before a token can be chosen."""
        return len(self.history) - self.fed

    @property
    def overdue(self) -> bool:
        """Its time is up."""
        limit = self.request.max_time_ms
        return limit is not None and 1e3 * (self._clock() - self.output.times["submitted"]) >= limit

    @property
    def wants_prompt_scores(self) -> bool:
        """Rows for the prompt's own tokens are still missing."""
        return self.request.prompt_logprobs is not None and len(self.output.prompt_logprobs) < len(self.request.prompt)

    def draft(self, room: int) -> Draft:
        """A guess of at most `room` tokens behind the history, none of which could be one too many."""
        count = min(self.payoff.count, room, self._longest - len(self.history) - 1)
        if self.request.drafter is None or count < 1:
            return NO_DRAFT
        return self.request.drafter.propose(self.history, count)

    def take(self, rows: NDArray[np.float32], fed: int, draft: Draft) -> int:
        """Add what a step brought: prompt scores, and from the rows after the history one token or several.

        Args:
            rows: the step's logits for this member, float32 [rows, vocabulary].
            fed: tokens of the history that the step fed.
            draft: what it fed behind them.

        Returns:
            Tokens of the draft that were accepted.

        Raises:
            NumericsError: NaN or Inf among the logits.
            Exception: whatever `on_token` raises.
        """
        begin, self.fed = self.fed, self.fed + fed
        if self.wants_prompt_scores:
            self._score_prompt(rows, begin)
        if self.pending:
            return 0
        held = self.fed
        for place, row in enumerate(rows[len(rows) - 1 - len(draft.tokens) :]):
            verdict = judge(row, draft, place, self.history, self.request.sampling)
            self._append(verdict.token, row)
            if not verdict.accepted or self.output.finished:
                break
            self.fed += 1
        return self.fed - held

    def finish(self, reason: FinishReason, error: Exception | None = None) -> None:
        """It has ended."""
        was_open = not self.output.finished
        self.output.finish_reason, self.output.error = reason, error
        self.output.times["ended"] = self._clock()
        if self.request.drafter is not None and was_open:
            self.request.drafter.close()

    def fail(self, error: Exception) -> None:
        """It went wrong. A cache too small for this one alone is an end like the context's, once there is output."""
        out_of_room = isinstance(error, LimitError) and len(self.output.tokens) > 0
        self.finish("length") if out_of_room else self.finish("error", error)

    def _append(self, token: int, row: NDArray[np.float32]) -> None:
        self.history.append(token)
        self.output.times.setdefault("first", self._clock())
        if self.request.logprobs is not None:
            self.output.logprobs.append(token_logprob(log_softmax(row), token, self.request.logprobs))
        if token in self.request.ends or (self.request.on_token is not None and self.request.on_token(token)):
            self.finish("stop")
        elif len(self.history) >= self._longest:
            self.finish("length")

    def _score_prompt(self, rows: NDArray[np.float32], begin: int) -> None:
        """Row i says how likely token begin + i + 1 was; what an earlier step (before a preemption) scored is not scored again."""
        found, prompt, top = self.output.prompt_logprobs, self.request.prompt, self.request.prompt_logprobs
        assert top is not None  # `wants_prompt_scores`
        if not found:
            found.append(None)
        for token in range(len(found), min(begin + len(rows) + 1, len(prompt))):
            found.append(token_logprob(log_softmax(rows[token - begin - 1]), prompt[token], top))
