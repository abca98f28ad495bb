"""What one sequence is given in a step: a `Feed` of tokens, or `Patches` of an image; and the checks before anything is computed."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import DTypeError, LimitError, NumericsError, SchemeError, ShapeError
from kbit.engine.ops import ForwardPlan

__all__ = ["Feed", "Patches", "Wanted", "check_feeds", "rows_of", "wanted_rows"]

#: rows whose outputs a step answers with: that of a feed's last token, those of all its tokens, or none
Wanted = Literal["last", "all", "none"]


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens for one sequence.

    Attributes:
        sequence: handle, as the engine's `sequence()` or `fork()` gave it.
        tokens: ids, at least one; any sequence of integers, kept as a tuple.
        wanted: see `Wanted`.

    Raises:
        ShapeError: no tokens.
        DTypeError: tokens that are not integers.
        SchemeError: `wanted` is none of its words.
    """

    sequence: int
    tokens: Sequence[int]
    wanted: Wanted = "last"

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "sequence", operator.index(self.sequence))
            object.__setattr__(self, "tokens", tuple(map(operator.index, self.tokens)))
        except TypeError as error:
            raise DTypeError(f"expected a sequence's handle and token ids as integers: {error}") from None
        if not self.tokens:
            raise ShapeError(f"sequence {self.sequence}: expected at least one token in a feed, got none")
        if self.wanted not in get_args(Wanted):
            raise SchemeError(f"wanted: expected one of {', '.join(get_args(Wanted))}, got {self.wanted!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Rows of numbers for one sequence, such as `kbit.engine.patches.unfold` makes of an image.

    Attributes:
        sequence: handle.
        values: float32 [rows, width].
        wanted: see `Wanted`.

    Raises:
        ShapeError: no rows, or not [rows, width].
        DTypeError: not float32.
        NumericsError: NaN or infinity.
        SchemeError: `wanted` is none of its words.
    """

    sequence: int
    values: NDArray[np.float32]
    wanted: Wanted = "all"

    def __post_init__(self) -> None:
        if not isinstance(self.values, np.ndarray) or self.values.dtype != np.float32:
            raise DTypeError(f"expected rows of float32, got {getattr(self.values, 'dtype', type(self.values).__name__)}")
        if self.values.ndim != 2 or not len(self.values):
            raise ShapeError(f"expected at least one row [rows, width], got shape {list(self.values.shape)}")
        if not np.isfinite(self.values).all():
            raise NumericsError(f"sequence {self.sequence}: expected finite numbers, got NaN or infinity")
        if self.wanted not in get_args(Wanted):
            raise SchemeError(f"wanted: expected one of {', '.join(get_args(Wanted))}, got {self.wanted!r}")


def check_feeds(feeds: Sequence[Feed | Patches], plan: ForwardPlan, lengths: Mapping[int, int]) -> None:
    """Refuse what a step could not do; nothing has been changed yet.

    Args:
        feeds: of the step.
        plan: whose vocabulary and context hold.
        lengths: living sequence → positions that it has.

    Raises:
        ShapeError: no feeds, or two for one sequence.
        NumericsError: a sequence that is not alive, or a token outside the vocabulary.
        LimitError: more positions than the model knows; an encoder's text in more than one step.
        DTypeError: tokens where the model reads rows of numbers, or the other way round.
    """
    if not feeds:
        raise ShapeError("expected at least one feed in a step, got none")
    seen: set[int] = set()
    for feed in feeds:
        if feed.sequence not in lengths:
            raise NumericsError(f"sequence {feed.sequence} is not alive: expected one of {len(lengths)} that are")
        if feed.sequence in seen:
            raise ShapeError(f"expected one feed a sequence in a step, got two for sequence {feed.sequence}")
        seen.add(feed.sequence)
        if isinstance(feed, Patches):
            _check_rows(feed, plan)
        else:
            _check_tokens(feed, plan)
        _check_length(feed, plan, lengths[feed.sequence])


def rows_of(feed: Feed | Patches) -> int:
    """Rows that a feed has in a step."""
    return len(feed.values if isinstance(feed, Patches) else feed.tokens)


def wanted_rows(feeds: Sequence[Feed | Patches]) -> list[int]:
    """Rows of a step whose outputs are wanted, in the order of the answer; rows of the feeds stand one after another."""
    rows: list[int] = []
    end = 0
    for feed in feeds:
        begin, end = end, end + rows_of(feed)
        rows += {"last": range(end - 1, end), "all": range(begin, end), "none": range(0)}[feed.wanted]
    return rows


def _check_rows(feed: Patches, plan: ForwardPlan) -> None:
    if plan.input is None:
        raise DTypeError(f"sequence {feed.sequence}: expected a Feed of tokens, got Patches")
    if feed.values.shape[1] != plan.buffers[plan.input]:
        raise ShapeError(f"sequence {feed.sequence}: expected rows of {plan.buffers[plan.input]} numbers, got {feed.values.shape[1]}")


def _check_tokens(feed: Feed, plan: ForwardPlan) -> None:
    vocabulary = plan.vocabulary
    if plan.input is not None:
        raise DTypeError(f"sequence {feed.sequence}: expected Patches, rows of {plan.buffers[plan.input]} numbers, got a Feed of tokens")
    for place, token in enumerate(feed.tokens):
        if not 0 <= token < vocabulary:
            raise NumericsError(f"sequence {feed.sequence}: expected token ids in 0…{vocabulary - 1}, got {token} at {place}")


def _check_length(feed: Feed | Patches, plan: ForwardPlan, length: int) -> None:
    if not plan.causal and length:
        raise LimitError(
            f"sequence {feed.sequence}: expected the whole text of an encoder in one step, got more after {length} tokens: "
            f"truncate it to 0 to give it another text"
        )
    total = length + rows_of(feed)
    if plan.context and total > plan.context:
        raise LimitError(f"sequence {feed.sequence}: expected at most {plan.context} positions, got {length} + {rows_of(feed)}")
