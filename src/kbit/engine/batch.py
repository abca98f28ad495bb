"""Continuous batching: requests join and leave a running batch at any step, and each gets the tokens that it would get alone.

A step feeds the next token of every request that is decoding, and prompts in chunks with what is left of a budget
(`kbit.engine.portions`). When the cache is full, kept prefixes go first; then the newest request is put back to wait, and what it had is
computed again later. Since a row of logits depends on its own sequence alone, none of this shows in anybody's tokens. One request's failure
is its own.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import LimitError, SchemeError
from kbit.engine.checks import check_count
from kbit.engine.member import Member
from kbit.engine.portions import Portion, share_out
from kbit.engine.prefixes import PrefixCache, common_prefix
from kbit.engine.request import FinishReason, Output, Request, check_prompt
from kbit.engine.stepper import Stepper

__all__ = ["Scheduler"]

#: shared tokens below which a fork is not worth its copy of a page
LEAST_SHARED = 8


class Scheduler:
    """A batch that changes from step to step. `submit` and `Output.cancel` may be called from any thread, the rest from one.

    Args:
        stepper: of the model.
        step_tokens: tokens of a step, at most.
        most_running: requests at once.
        kept_prefixes: sequences of ended requests that stay in the cache, for prompts that begin like them; 0 for none.
        clock: seconds.

    Raises:
        SchemeError: a count out of range, or fewer tokens a step than requests at once.
    """

    def __init__(
        self,
        stepper: Stepper,
        *,
        step_tokens: int = 256,
        most_running: int = 32,
        kept_prefixes: int = 4,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_count("most_running", most_running, 1)
        check_count("kept_prefixes", kept_prefixes, 0)
        check_count("step_tokens", step_tokens, 1)
        if step_tokens < most_running:
            raise SchemeError(f"expected step_tokens of at least most_running, {most_running}, got {step_tokens}")
        self._stepper, self._budget, self._most, self._clock = stepper, step_tokens, most_running, clock
        self._prefixes = PrefixCache(stepper, kept_prefixes)
        self._arrived: deque[Output] = deque()
        self._waiting: deque[Member] = deque()
        self._running: list[Member] = []
        self._orders = 0
        self._crowded = False  # the cache was full: nobody joins until somebody has left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def idle(self) -> bool:
        """Nothing runs or waits."""
        return not (self._arrived or self._waiting or self._running)

    def submit(self, request: Request) -> Output:
        """Let a request join; it takes part from the next step on that has room for it.

        Raises:
            ModelError: a prompt without tokens, or with one outside the vocabulary.
            LimitError: a prompt that leaves no room in the context.
            SchemeError: a bias for a token outside the vocabulary.
        """
        check_prompt(request.prompt, self._stepper)
        request.sampling.check_vocabulary(self._stepper.vocabulary)
        output = Output(request, self._clock())
        self._arrived.append(output)
        return output

    def step(self) -> bool:
        """One step of the model for all that take part; False if there is nothing left to do."""
        self._receive()
        self._drop_ended()
        self._admit()
        drafts = True
        while (portions := self._portions(drafts=drafts)) and not self._run(portions):
            drafts = False  # the cache was full: the next try asks for less
        return not self.idle

    def run(self) -> None:
        """Step until nothing is left to do."""
        while self.step():
            pass

    def follow(self, output: Output) -> Iterator[int]:
        """The tokens of one output as they come, stepping the whole batch; leaving early cancels it.

        Raises:
            Exception: the output's error, after its tokens.
        """
        seen = 0
        try:
            while seen < len(output.tokens) or not output.finished:
                if seen == len(output.tokens):
                    self.step()
                    continue
                seen += 1
                yield int(output.tokens[seen - 1])
        finally:
            output.cancel()
        if output.error is not None:
            raise output.error

    def close(self) -> None:
        """Cancel all that is not finished and free every sequence."""
        self._receive()
        for member in [*self._running, *self._waiting]:
            self._leave(member, "cancelled")
        self._prefixes.clear()

    def _receive(self) -> None:
        while self._arrived:
            self._orders += 1
            self._waiting.append(Member(self._arrived.popleft(), self._orders, self._stepper.context, self._clock))

    def _drop_ended(self) -> None:
        for member in [*self._running, *self._waiting]:
            if member.output.finished:  # an interrupt came just then
                self._retire(member)
            elif member.output.cancelled:
                self._leave(member, "cancelled")
            elif member.overdue:
                self._leave(member, "deadline")

    def _admit(self) -> None:
        """Those that waited longest join, while there is room; nobody overtakes."""
        while self._waiting and len(self._running) < self._most and not self._crowded:
            member = self._waiting[0]
            try:
                self._seat(member)
            except LimitError as error:
                if self._prefixes.evict():
                    continue
                if not self._running:
                    self._leave(member, error)
                return
            self._running.append(self._waiting.popleft())  # in the order of arrival: who was put off waits before all others

    def _seat(self, member: Member) -> None:
        """A sequence for the member, forked from one that begins alike, where there is one."""
        source, shared = self._likest(member)
        if source is not None and shared >= LEAST_SHARED:
            member.sequence, member.fed = self._stepper.fork(source, shared), shared
        else:
            member.sequence, member.fed = self._stepper.sequence(), 0
        member.output.times.setdefault("admitted", self._clock())

    def _likest(self, member: Member) -> tuple[int | None, int]:
        if member.wants_prompt_scores:  # they need a row for each of its tokens
            return None, 0
        tokens = member.history.tokens[:-1]  # the last is fed in any case: its row is wanted
        running = [(other.sequence, common_prefix(other.history.tokens[: other.fed], tokens)) for other in self._running]
        return max([self._prefixes.longest(tokens), *running], key=lambda found: found[1])

    def _portions(self, *, drafts: bool) -> list[Portion]:
        self._rewind()
        shares = share_out(self._running, self._budget, self._clock, drafts=drafts)
        for member, error in shares.failed:
            self._leave(member, error)
        return shares.portions

    def _rewind(self) -> None:
        """Every sequence is where its member believes it to be: what an interrupt or an error left behind goes, and drafts not accepted."""
        for member in self._running:
            if member.sequence is not None and self._stepper.length(member.sequence) > member.fed:
                self._stepper.truncate(member.sequence, member.fed)

    def _run(self, portions: list[Portion]) -> bool:
        """One step; False if the cache was too full for it, and something was given up for the next try."""
        began = self._clock()
        try:
            logits = self._stepper.step([portion.feed for portion in portions])
        except LimitError as error:
            if not any(portion.draft.tokens for portion in portions):
                self._make_room(error)
            return False
        except Exception:
            self._run_apart()
            return True
        self._share(portions, logits, 1e3 * (self._clock() - began))
        return True

    def _run_apart(self) -> None:
        """A step failed as a whole: each member by itself shows whose fault it was."""
        for portion in self._portions(drafts=False):
            try:
                self._give(portion, self._stepper.step([portion.feed]))
            except LimitError:
                continue  # it has the next step
            except Exception as error:
                self._leave(portion.member, error)

    def _share(self, portions: list[Portion], logits: NDArray[np.float32], step_ms: float) -> None:
        ends = np.cumsum([portion.rows for portion in portions])
        decoding_only = all(portion.fed == 1 for portion in portions)
        for portion, end in zip(portions, ends, strict=True):
            accepted = self._give(portion, logits[end - portion.rows : end])
            if decoding_only:  # a chunk of somebody's prompt says nothing about the cost of a draft
                portion.member.payoff.record(len(portion.draft.tokens), accepted, step_ms, portion.draft_ms)

    def _give(self, portion: Portion, rows: NDArray[np.float32]) -> int:
        try:
            accepted = portion.member.take(rows, portion.fed, portion.draft)
        except Exception as error:  # of this request alone: its logits, or its callback
            self._leave(portion.member, error)
            return 0
        if portion.member.output.finished:
            self._retire(portion.member)
        return accepted

    def _make_room(self, error: LimitError) -> None:
        """Give up a kept prefix, else the newest request's place; one that is alone cannot go on."""
        if self._prefixes.evict():
            return
        newest = self._running[-1]
        if len(self._running) == 1:
            self._leave(newest, error)
            return
        self._unseat(newest)
        self._waiting.appendleft(newest)
        self._crowded = True

    def _leave(self, member: Member, why: FinishReason | Exception) -> None:
        """End a member whose sequence is of no more use."""
        if member in self._waiting:
            self._waiting.remove(member)
        self._unseat(member)
        member.fail(why) if isinstance(why, Exception) else member.finish(why)

    def _retire(self, member: Member) -> None:
        """A member has finished: its sequence is kept for prompts that begin like it."""
        if member.sequence is not None and member.fed >= LEAST_SHARED:
            self._stepper.truncate(member.sequence, member.fed)
            self._prefixes.keep(member.sequence, member.history.tokens[: member.fed])
            member.sequence = None
        self._unseat(member)

    def _unseat(self, member: Member) -> None:
        if member in self._running:
            self._running.remove(member)
            self._crowded = False
        if member.sequence is not None:
            self._stepper.free(member.sequence)
        member.sequence, member.fed = None, 0
