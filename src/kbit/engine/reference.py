"""`ReferenceEngine`: sequences over a plan that is run in plain numpy. The oracle of the native step; not made for speed.

A sequence is, for each layer, the keys and values [positions, kv_heads, head_dim] of its past; arrays never change, so forks share them.
"""

from collections.abc import Sequence

import numpy as np

from kbit.core.errors import NumericsError, ShapeError
from kbit.engine.feeds import Feed, Patches, check_feeds, rows_of, wanted_rows
from kbit.engine.interpreter import Floats, Interpreter, Past, Run, Step
from kbit.engine.ops import ForwardPlan
from kbit.engine.weights import ModelWeights

__all__ = ["Past", "ReferenceEngine"]


class ReferenceEngine:
    """Sequences over a plan.

    Args:
        plan: what to compute.
        weights: read as they are first used, and kept in float32.
    """

    def __init__(self, plan: ForwardPlan, weights: ModelWeights) -> None:
        self.plan, self._interpreter = plan, Interpreter(plan, weights)
        self._pasts: dict[int, Past] = {}
        self._memories: dict[int, Past] = {}
        self._lengths: dict[int, int] = {}
        self._next = 0

    def sequence(self, memory: Past | None = None) -> int:
        """A new, empty sequence; a decoder's is given the memory of the text that was encoded for it."""
        empty = np.empty((0, self.plan.kv_heads, self.plan.head_dim), np.float32)
        return self._admit([(empty, empty)] * self.plan.layers, 0, memory or [])

    def fork(self, sequence: int, length: int | None = None) -> int:
        """A new sequence with the first `length` positions of another, all of them unless told.

        Raises:
            NumericsError: not alive.
            ShapeError: more positions than it has.
        """
        length = self._check(sequence, length)
        return self._admit([(k[:length], v[:length]) for k, v in self._pasts[sequence]], length, self._memories[sequence])

    def truncate(self, sequence: int, length: int) -> None:
        """Forget all positions from `length` on.

        Raises:
            NumericsError: not alive.
            ShapeError: more positions than it has.
        """
        self._lengths[sequence] = self._check(sequence, length)
        self._pasts[sequence] = [(k[:length], v[:length]) for k, v in self._pasts[sequence]]

    def free(self, sequence: int) -> None:
        """End a sequence.

        Raises:
            NumericsError: not alive.
        """
        self._check(sequence, None)
        del self._pasts[sequence], self._lengths[sequence], self._memories[sequence]

    def length(self, sequence: int) -> int:
        """Positions that a sequence has.

        Raises:
            NumericsError: not alive.
        """
        return self._check(sequence, None)

    def memory(self, sequence: int) -> Past:
        """Keys and values, for each layer of the decoder, that an encoder's step left.

        Raises:
            NumericsError: not alive.
        """
        self._check(sequence, None)
        return self._memories[sequence]

    def step(self, feeds: Sequence[Feed | Patches]) -> Floats:
        """One forward step.

        Returns:
            Logits (hidden states of a model without a head) [wanted rows, width], feeds in order.

        Raises:
            As `check_feeds`; nothing has changed then.
        """
        check_feeds(feeds, self.plan, self._lengths)
        step = self._begin(feeds)
        result = self._interpreter.run(step)
        self._pasts.update(step.pasts)
        self._memories.update(step.memories)
        for run in step.runs:
            self._lengths[run.sequence] = run.start + run.end - run.begin
        return result

    def _admit(self, past: Past, length: int, memory: Past) -> int:
        sequence, self._next = self._next, self._next + 1
        self._pasts[sequence], self._lengths[sequence], self._memories[sequence] = past, length, memory
        return sequence

    def _check(self, sequence: int, length: int | None) -> int:
        if sequence not in self._lengths:
            raise NumericsError(f"sequence {sequence} is not alive: expected one of {len(self._lengths)} that are")
        present = self._lengths[sequence]
        if length is not None and not 0 <= length <= present:
            raise ShapeError(f"sequence {sequence}: expected a length in 0…{present}, got {length}")
        return present if length is None else length

    def _begin(self, feeds: Sequence[Feed | Patches]) -> Step:
        runs: list[Run] = []
        for feed in feeds:
            begin = runs[-1].end if runs else 0
            runs.append(Run(feed.sequence, begin, begin + rows_of(feed), self._lengths[feed.sequence]))
        tokens = np.array([token for feed in feeds if isinstance(feed, Feed) for token in feed.tokens], np.int64)
        rows = [feed.values for feed in feeds if isinstance(feed, Patches)]
        buffers = {} if self.plan.input is None else {self.plan.input: np.concatenate(rows)}
        positions = np.concatenate([run.start + np.arange(run.end - run.begin) for run in runs])
        pasts, memories = ({run.sequence: list(kept[run.sequence]) for run in runs} for kept in (self._pasts, self._memories))
        return Step(tokens, positions, runs, wanted_rows(feeds), buffers, pasts, memories)
