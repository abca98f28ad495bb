"""Which tokens go into the next step: a batch's budget shared out.

Who only needs its next token gets it in every step, so that text flows evenly whatever else arrives. Prompts are fed in chunks with the
rest of the budget, in the order of arrival, each at least one token. Drafts have what is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kbit.engine.drafts import NO_DRAFT, Draft
from kbit.engine.member import Member
from kbit.engine.stepper import Feed, Wanted

__all__ = ["Portion", "Shares", "share_out"]


@dataclass(frozen=True, slots=True)
class Portion:
    """What one member feeds in a step.

    Attributes:
        member: who.
        fed: tokens of its history.
        draft: fed behind them.
        draft_ms: what the draft cost.
        feed: both, for the stepper.
    """

    member: Member
    fed: int
    draft: Draft
    draft_ms: float
    feed: Feed

    @property
    def rows(self) -> int:
        """Rows of logits that the step answers with."""
        return {"last": 1, "all": len(self.feed.tokens), "none": 0}[self.feed.wanted]


@dataclass(slots=True)
class Shares:
    """A step's portions, and members whose drafter raised an error."""

    portions: list[Portion] = field(default_factory=list)
    failed: list[tuple[Member, Exception]] = field(default_factory=list)


def share_out(members: Sequence[Member], budget: int, clock: Callable[[], float], *, drafts: bool = True) -> Shares:
    """Portions of all members, those that decode first.

    Args:
        members: in the order of arrival, at most `budget`.
        budget: tokens of the step.
        clock: seconds, to time drafts.
        drafts: False for none.
    """
    shares, room = Shares(), budget - len(members)
    chunks = []
    for member in [member for member in members if member.pending > 1]:
        chunks.append(_portion(member, min(member.pending, 1 + room), NO_DRAFT, 0.0))
        room -= chunks[-1].fed - 1
    for member in [member for member in members if member.pending == 1]:
        try:
            shares.portions.append(_decode(member, room if drafts else 0, clock))
            room -= len(shares.portions[-1].draft.tokens)
        except Exception as error:
            shares.failed.append((member, error))
    shares.portions.extend(chunks)
    return shares


def _decode(member: Member, room: int, clock: Callable[[], float]) -> Portion:
    began = clock()
    draft = member.draft(room)
    return _portion(member, 1, draft, 1e3 * (clock() - began))


def _portion(member: Member, count: int, draft: Draft, draft_ms: float) -> Portion:
    assert member.sequence is not None  # it was admitted
    tokens = member.history.tokens[member.fed : member.fed + count]
    if draft.tokens:
        tokens = np.append(tokens, np.array(draft.tokens, dtype=np.int32))
    return Portion(member, count, draft, draft_ms, Feed(member.sequence, tokens, _wanted(member, count, draft)))


def _wanted(member: Member, count: int, draft: Draft) -> Wanted:
    if draft.tokens or member.wants_prompt_scores:
        return "all"
    return "last" if count == member.pending else "none"
