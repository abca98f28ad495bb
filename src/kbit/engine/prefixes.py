"""Sequences kept for prompts that begin as they do: what a new prompt shares with one of them need not be computed again."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from kbit.engine.stepper import Stepper

__all__ = ["PrefixCache", "common_prefix"]


def common_prefix(first: NDArray[np.int32], second: NDArray[np.int32]) -> int:
    """Tokens that both begin with."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length


class PrefixCache:
    """The sequences used last, up to a bound.

    Args:
        stepper: whose sequences they are.
        bound: sequences kept; 0 for none.
    """

    def __init__(self, stepper: Stepper, bound: int) -> None:
        self._stepper, self._bound = stepper, bound
        self._kept: OrderedDict[int, NDArray[np.int32]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def longest(self, tokens: NDArray[np.int32]) -> tuple[int | None, int]:
        """The kept sequence that shares most with `tokens`, and how many; None and 0 if none does. It counts as used."""
        shared = {sequence: common_prefix(held, tokens) for sequence, held in self._kept.items()}
        best = max(shared, key=lambda sequence: shared[sequence], default=None)
        if best is None or not shared[best]:
            return None, 0
        self._kept.move_to_end(best)
        return best, shared[best]

    def keep(self, sequence: int, tokens: NDArray[np.int32]) -> None:
        """Take over a sequence that holds exactly `tokens`; those that it contains, and the oldest beyond the bound, are freed."""
        if any(common_prefix(held, tokens) == len(tokens) for held in self._kept.values()):
            self._stepper.free(sequence)
            return
        for other in [other for other, held in self._kept.items() if common_prefix(held, tokens) == len(held)]:
            self._drop(other)
        self._kept[sequence] = tokens.copy()
        while len(self._kept) > self._bound:
            self.evict()

    def evict(self) -> bool:
        """Free the sequence that was used longest ago; False if there is none."""
        if not self._kept:
            return False
        self._drop(next(iter(self._kept)))
        return True

    def clear(self) -> None:
        """Free all."""
        while self.evict():
            pass

    def _drop(self, sequence: int) -> None:
        del self._kept[sequence]
        self._stepper.free(sequence)
