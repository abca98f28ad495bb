"""What a member adds to its output, row by row, and where it stands in the cache afterwards."""

import numpy as np
import pytest

from kbit.core.errors import LimitError, NumericsError
from kbit.engine.drafts import NO_DRAFT, Draft
from kbit.engine.member import Member
from kbit.engine.request import Output, Request


def _member(max_tokens: int = 20, context: int = 0, **options: object) -> Member:
    return Member(Output(Request((1, 2, 3), max_tokens, **options), 0.0), 1, context, lambda: 5.0)


def _rows(*tokens: int) -> np.ndarray:
    """Rows whose likeliest tokens are these."""
    return np.eye(10, dtype=np.float32)[list(tokens)]


def test_a_part_of_the_prompt_adds_nothing() -> None:
    member = _member()
    assert member.take(_rows(), 2, NO_DRAFT) == 0
    assert (member.fed, member.pending, len(member.history)) == (2, 1, 3)


def test_a_row_after_the_prompt_is_a_token() -> None:
    member = _member()
    member.take(_rows(7), 3, NO_DRAFT)
    assert member.history.tokens.tolist() == [1, 2, 3, 7]
    assert (member.fed, member.pending) == (3, 1)
    assert member.output.times["first"] == 5.0


@pytest.mark.parametrize(
    ("rows", "accepted", "tokens"), [((4, 5, 6), 2, [4, 5, 6]), ((4, 9, 6), 1, [4, 9]), ((9, 5, 6), 0, [9]), ((0, 0, 0), 0, [0])]
)
def test_a_draft_is_taken_up_to_the_first_difference(rows: tuple, accepted: int, tokens: list[int]) -> None:
    member = _member()
    assert member.take(_rows(*rows), 3, Draft((4, 5))) == accepted
    assert member.output.tokens.tolist() == tokens
    assert member.fed == 3 + accepted  # the last token has not been fed
    assert member.pending == 1


def test_an_output_that_ends_inside_a_draft_takes_no_more() -> None:
    member = _member(ends=frozenset([5]))
    member.take(_rows(4, 5, 6), 3, Draft((4, 5)))
    assert member.output.tokens.tolist() == [4, 5]
    assert member.output.finish_reason == "stop"


@pytest.mark.parametrize(("max_tokens", "context", "room"), [(20, 0, 4), (3, 0, 2), (1, 0, 0), (20, 5, 1), (20, 4, 0)])
def test_drafts_leave_room_for_the_last_token(max_tokens: int, context: int, room: int) -> None:
    class Eager:
        def propose(self, history: object, count: int) -> Draft:
            return Draft((0,) * count)

        def close(self) -> None:
            pass

    member = _member(max_tokens, context, drafter=Eager())
    assert member.draft(10) == NO_DRAFT  # plain steps are measured first
    for _ in range(5):
        member.payoff.record(0, 0, 1.0, 0.0)
    assert len(member.draft(10).tokens) == room
    assert member.draft(0) == NO_DRAFT


def test_a_full_cache_is_an_end_once_there_is_output() -> None:
    without, having = _member(), _member()
    having.take(_rows(7), 3, NO_DRAFT)
    for member in (without, having):
        member.fail(LimitError("full"))
    assert (without.output.finish_reason, having.output.finish_reason) == ("error", "length")
    assert having.output.error is None
    broken = _member()
    with pytest.raises(NumericsError):
        broken.take(_rows(7) * np.float32(np.nan), 3, NO_DRAFT)


def test_time_runs_from_submission() -> None:
    assert _member(max_time_ms=5000).overdue
    assert not _member(max_time_ms=5001).overdue
    assert not _member().overdue
