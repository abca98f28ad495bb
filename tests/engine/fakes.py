"""A stepper without a model: logits are a hash of the tokens so far. It holds its caller to the contract of `Stepper`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import LimitError
from kbit.engine.request import Request
from kbit.engine.sampling import choose
from kbit.engine.stepper import Feed

_MASK = 2**64 - 1


def _mix(value: int) -> int:
    """splitmix64's finaliser."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


class HashStepper:
    """Any misuse (an unknown handle, a token outside the vocabulary, too many positions) fails the test that made it.

    Args:
        vocabulary: tokens.
        context: positions of a sequence; 0 for no limit.
        capacity: positions of all sequences together; a step or fork beyond it raises `LimitError`.
        sequences: sequences at once; one more raises `LimitError`.
        poison: a token after which logits are NaN.
        spread: logits lie in ± spread.
        seed: another one is another model.
    """

    def __init__(
        self,
        vocabulary: int = 32,
        context: int = 0,
        *,
        capacity: int | None = None,
        sequences: int | None = None,
        poison: int | None = None,
        spread: float = 4.0,
        seed: int = 0,
    ) -> None:
        self.vocabulary, self.context = vocabulary, context
        self.capacity, self.most, self.poison, self.spread = capacity, sequences, poison, spread
        self.live: dict[int, list[int]] = {}  # handle → hash after each position
        self.rows: list[int] = []  # tokens of each step
        self.forks = self.refusals = self.truncated = 0
        self._handles = 0
        self._salt = np.array([_mix(token + 1 + 1000 * seed) for token in range(vocabulary)], dtype=np.uint64)

    def sequence(self) -> int:
        return self._new([])

    def fork(self, sequence: int, length: int | None = None) -> int:
        held = self.live[sequence]
        length = len(held) if length is None else length
        assert 0 <= length <= len(held), f"fork of {length} positions of {len(held)}"
        self._hold(length)
        self.forks += 1
        return self._new(held[:length])

    def truncate(self, sequence: int, length: int) -> None:
        assert 0 <= length <= len(self.live[sequence]), f"truncate to {length} of {len(self.live[sequence])}"
        self.truncated += len(self.live[sequence]) - length
        del self.live[sequence][length:]

    def free(self, sequence: int) -> None:
        del self.live[sequence]

    def length(self, sequence: int) -> int:
        return len(self.live[sequence])

    def step(self, feeds: Sequence[Feed]) -> NDArray[np.float32]:
        assert feeds, "a step without feeds"
        assert len({feed.sequence for feed in feeds}) == len(feeds), "a sequence twice in a step"
        for feed in feeds:
            self._check(feed)
        self._hold(sum(len(feed.tokens) for feed in feeds))
        self.rows.append(sum(len(feed.tokens) for feed in feeds))
        rows = [row for feed in feeds for row in self._run(feed)]
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.vocabulary)

    def _new(self, held: list[int]) -> int:
        if self.most is not None and len(self.live) >= self.most:
            raise LimitError(f"expected at most {self.most} sequences, got one more")
        self._handles += 1
        self.live[self._handles] = held
        return self._handles

    def _hold(self, more: int) -> None:
        held = sum(map(len, self.live.values()))
        if self.capacity is not None and held + more > self.capacity:
            self.refusals += 1
            raise LimitError(f"expected at most {self.capacity} positions, got {held + more}")

    def _check(self, feed: Feed) -> None:
        assert len(feed.tokens), "a feed without tokens"
        assert all(0 <= int(token) < self.vocabulary for token in feed.tokens), f"a token outside the vocabulary among {feed.tokens}"
        length = len(self.live[feed.sequence]) + len(feed.tokens)
        assert not self.context or length <= self.context, f"{length} positions in a context of {self.context}"

    def _run(self, feed: Feed) -> list[NDArray[np.float32]]:
        held, rows = self.live[feed.sequence], []
        for place, token in enumerate(feed.tokens):
            held.append(_mix((held[-1] if held else 7) * 31 + int(token) + 1 & _MASK))
            if feed.wanted == "all" or (feed.wanted == "last" and place == len(feed.tokens) - 1):
                rows.append(self._logits(held[-1], int(token)))
        return rows

    def _logits(self, value: int, token: int) -> NDArray[np.float32]:
        if token == self.poison:
            return np.full(self.vocabulary, np.nan, dtype=np.float32)
        mixed = (self._salt ^ np.uint64(value)) * np.uint64(0x9E3779B97F4A7C15)
        return ((mixed >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - 1) * np.float32(self.spread)


def alone(request: Request, stepper: HashStepper) -> list[int]:
    """The output's tokens, from nothing but steps and choices."""
    tokens, sequence = list(request.prompt), stepper.sequence()
    longest = min(len(tokens) + request.max_tokens, stepper.context or 10**9)
    fed: Sequence[int] = tokens
    while len(tokens) < longest:
        logits = stepper.step([Feed(sequence, tuple(fed))])[0]
        tokens.append(choose(logits, np.array(tokens, dtype=np.int32), len(request.prompt), request.sampling))
        fed = tokens[-1:]
        if tokens[-1] in request.ends:
            break
    stepper.free(sequence)
    return tokens[len(request.prompt) :]
