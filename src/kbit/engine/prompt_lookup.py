"""Drafts from the text itself: what followed the last time that its last tokens stood there (Saxena 2023, prompt lookup decoding).

Costs next to nothing, and pays where output repeats its prompt: summaries, corrections, code.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from kbit.engine.checks import check_count
from kbit.engine.drafts import NO_DRAFT, Draft
from kbit.engine.history import History

__all__ = ["PromptLookup"]


class PromptLookup:
    """Looks for the longest of the last n-grams that stood in the text before.

    Args:
        longest: tokens of an n-gram, at most.
        shortest: at least.

    Raises:
        SchemeError: a length out of range.
    """

    def __init__(self, longest: int = 3, shortest: int = 2) -> None:
        check_count("shortest", shortest, 1)
        check_count("longest", longest, shortest)
        self._sizes = range(longest, shortest - 1, -1)

    def propose(self, history: History, count: int) -> Draft:
        """What followed the latest earlier place of the longest n-gram that has one."""
        tokens = history.tokens
        for size in self._sizes:
            if len(tokens) <= size:
                continue
            places = np.flatnonzero((sliding_window_view(tokens[:-1], size) == tokens[-size:]).all(axis=1))
            if len(places):
                begin = int(places[-1]) + size
                return Draft(tuple(tokens[begin : begin + count].tolist()))
        return NO_DRAFT

    def close(self) -> None:
        """Holds nothing."""
