"""A step's budget: everybody's next token, then prompts in the order of arrival, then drafts."""

import numpy as np

from kbit.engine.drafts import Draft
from kbit.engine.history import History
from kbit.engine.member import Member
from kbit.engine.portions import share_out
from kbit.engine.request import Output, Request


class _Guess:
    def propose(self, history: History, count: int) -> Draft:
        return Draft((7,) * count)

    def close(self) -> None:
        pass


class _Broken(_Guess):
    def propose(self, history: History, count: int) -> Draft:
        raise RuntimeError("no guess")


def _member(order: int, prompt: int, fed: int = 0, **options: object) -> Member:
    member = Member(Output(Request((1,) * prompt, 100, **options), 0.0), order, 0, lambda: 0.0)
    member.sequence, member.fed = order, fed
    for _ in range(5):
        member.payoff.record(0, 0, 1.0, 0.0)  # its plain steps are measured
    return member


def _shares(members: list[Member], budget: int, **options: bool) -> list[tuple[int, int, int, str]]:
    """(sequence, history tokens, draft tokens, rows wanted) of each portion."""
    portions = share_out(members, budget, lambda: 0.0, **options).portions
    assert sum(len(portion.feed.tokens) for portion in portions) <= budget
    assert all(len(portion.feed.tokens) == portion.fed + len(portion.draft.tokens) for portion in portions)
    return [(portion.feed.sequence, portion.fed, len(portion.draft.tokens), portion.feed.wanted) for portion in portions]


def test_who_decodes_comes_first_and_prompts_share_the_rest_in_order() -> None:
    members = [_member(1, 50), _member(2, 9, fed=8), _member(3, 50), _member(4, 50)]
    assert _shares(members, 64) == [(2, 1, 0, "last"), (1, 50, 0, "last"), (3, 12, 0, "none"), (4, 1, 0, "none")]


def test_everybody_gets_a_token_of_the_smallest_budget() -> None:
    assert [share[1] for share in _shares([_member(order, 10 * order) for order in (1, 2, 3)], 3)] == [1, 1, 1]


def test_drafts_have_what_prompts_leave() -> None:
    decoding = [_member(1, 5, fed=4, drafter=_Guess()), _member(2, 5, fed=4, drafter=_Guess())]
    assert _shares(decoding, 9) == [(1, 1, 4, "all"), (2, 1, 3, "all")]
    assert _shares(decoding, 9, drafts=False) == [(1, 1, 0, "last"), (2, 1, 0, "last")]
    assert _shares([*decoding, _member(3, 20)], 9) == [(1, 1, 0, "last"), (2, 1, 0, "last"), (3, 7, 0, "none")]
    assert _shares([*decoding, _member(3, 3)], 9) == [(1, 1, 4, "all"), (2, 1, 0, "last"), (3, 3, 0, "last")]


def test_a_draft_never_goes_beyond_the_last_token() -> None:
    member = Member(Output(Request((1,) * 5, 3, drafter=_Guess()), 0.0), 1, 0, lambda: 0.0)
    member.sequence, member.fed = 1, 4
    for _ in range(5):
        member.payoff.record(0, 0, 1.0, 0.0)
    assert _shares([member], 64) == [(1, 1, 2, "all")]


def test_scores_of_a_prompt_need_all_its_rows() -> None:
    assert _shares([_member(1, 50, prompt_logprobs=0)], 8) == [(1, 8, 0, "all")]


def test_a_broken_drafter_is_reported_with_its_member() -> None:
    members = [_member(1, 5, fed=4, drafter=_Broken()), _member(2, 5, fed=4)]
    shares = share_out(members, 64, lambda: 0.0)
    assert [(member.order, str(error)) for member, error in shares.failed] == [(1, "no guess")]
    assert [portion.member.order for portion in shares.portions] == [2]


def test_the_tokens_are_those_not_yet_in_the_cache() -> None:
    member = Member(Output(Request(tuple(range(20)), 5), 0.0), 1, 0, lambda: 0.0)
    member.sequence, member.fed = 1, 6
    (portion,) = share_out([member], 5, lambda: 0.0).portions
    np.testing.assert_array_equal(portion.feed.tokens, [6, 7, 8, 9, 10])
