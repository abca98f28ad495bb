"""`native_calls`: a step's feeds, in as many native calls as their rows take."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import LimitError
from kbit.engine.feeds import Feed, Patches, rows_of
from kbit.engine.memory import NO_MEMORY

__all__ = ["native_calls"]

Segments = list[tuple[int, int, int, int]]
Call = tuple[int, NDArray[np.int64]]


def native_calls(feeds: Sequence[Feed | Patches], max_rows: int, memories: dict[int, int], *, causal: bool) -> list[Call]:
    """The native calls of a step.

    Args:
        feeds: of the step.
        max_rows: of a call at most.
        memories: sequence → memory that it reads or leaves.
        causal: later rows may come in later calls; False keeps the rows of a feed together, for they see each other.

    Returns:
        (first row of the step, segments [n, 4] of sequence, first row of the call, rows, memory) for each call.

    Raises:
        LimitError: a feed that must be kept together and has more rows than a call.
    """
    calls: list[Call] = []
    segments: Segments = []
    first = row = 0

    def close() -> None:
        nonlocal first, segments
        if segments:
            calls.append((first, np.asarray(segments, np.int64)))
        first, segments = row, []

    for feed in feeds:
        left = rows_of(feed)
        if not causal and left > max_rows:
            raise LimitError(
                f"sequence {feed.sequence}: expected at most max_rows = {max_rows} positions of an encoder at once, got {left}"
            )
        if not causal and left > max_rows - (row - first):
            close()
        while left:
            count = min(left, max_rows - (row - first))
            segments.append((feed.sequence, row - first, count, memories.get(feed.sequence, NO_MEMORY)))
            row, left = row + count, left - count
            if row - first == max_rows:
                close()
    close()
    return calls
