from collections.abc import Sequence

import numpy as np
import pytest

from kbit.core.errors import DTypeError, KbitError, LimitError, NumericsError, SchemeError, ShapeError
from kbit.engine.feeds import Feed, check_feeds, wanted_rows
from kbit.engine.ops import ForwardPlan


def plan(context: int = 8, *, causal: bool = True) -> ForwardPlan:
    return ForwardPlan((), {}, "x", vocabulary=10, context=context, layers=1, kv_heads=1, head_dim=2, causal=causal, architecture="test")


def test_tokens_are_kept_as_integers() -> None:
    feed = Feed(np.int64(3), np.array([1, 2]), "all")
    assert (feed.sequence, feed.tokens, feed.wanted) == (3, (1, 2), "all")
    assert feed == Feed(3, [1, 2], "all")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, []), ShapeError, "sequence 0: expected at least one token in a feed, got none"),
        ((0, [1.0]), DTypeError, "token ids as integers"),
        ((0, 5), DTypeError, "token ids as integers"),
        (("a", [1]), DTypeError, "handle and token ids as integers"),
        ((0, [1], "first"), SchemeError, "wanted: expected one of last, all, none, got 'first'"),
    ],
)
def test_feeds_are_refused_when_made(arguments: Sequence[object], error: type[KbitError], message: str) -> None:
    with pytest.raises(error, match=message):
        Feed(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("feeds", "error", "message"),
    [
        ([], ShapeError, "at least one feed in a step"),
        ([Feed(7, [1])], NumericsError, "sequence 7 is not alive: expected one of 2"),
        ([Feed(0, [1]), Feed(0, [2])], ShapeError, "got two for sequence 0"),
        ([Feed(0, [1, 10])], NumericsError, r"sequence 0: expected token ids in 0…9, got 10 at 1"),
        ([Feed(0, [-1])], NumericsError, "got -1 at 0"),
        ([Feed(1, [1] * 4)], LimitError, r"sequence 1: expected at most 8 positions, got 5 \+ 4"),
    ],
)
def test_a_step_is_refused(feeds: list[Feed], error: type[KbitError], message: str) -> None:
    with pytest.raises(error, match=message):
        check_feeds(feeds, plan(), {0: 0, 1: 5})


def test_a_step_within_bounds_passes() -> None:
    check_feeds([Feed(0, [0, 9]), Feed(1, [1] * 3)], plan(), {0: 0, 1: 5})
    check_feeds([Feed(1, [1] * 100)], plan(context=0), {1: 5})


def test_an_encoder_takes_its_text_at_once() -> None:
    check_feeds([Feed(0, [1] * 8)], plan(causal=False), {0: 0})
    with pytest.raises(LimitError, match="the whole text of an encoder in one step, got more after 5 tokens"):
        check_feeds([Feed(0, [1])], plan(causal=False), {0: 5})


def test_wanted_rows_count_through_all_feeds() -> None:
    assert wanted_rows([Feed(0, [1, 2, 3]), Feed(1, [4, 5], "all"), Feed(2, [6], "none"), Feed(3, [7])]) == [2, 3, 4, 6]
