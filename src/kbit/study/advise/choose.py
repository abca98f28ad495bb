"""From candidates to advice: what fits, the frontier, three options with a reason each, and what is dominated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kbit.core.sizes import bytes_text
from kbit.study.advise.candidates import Candidate

__all__ = ["Advice", "Limits", "Option", "Relaxation", "choose", "pareto"]

#: the smallest option may lose so much more than the best, nats a token
SMALL_COST = 0.05
_MOST_WARNINGS = 6


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user asked for; None for no limit."""

    memory_bytes: int
    min_tokens_per_s: float | None = None
    max_loss: float | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """An advised candidate: ``safest``, ``best`` or ``smallest``, and why."""

    label: str
    candidate: Candidate
    reason: str

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {"label": self.label, **self.candidate.to_json(), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The nearest limit that something meets, all others kept where anything meets them."""

    limit: str
    asked: float
    nearest: float
    candidate: Candidate

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {"limit": self.limit, "asked": self.asked, "nearest": self.nearest, **self.candidate.to_json()}


@dataclass(frozen=True, slots=True)
class Advice:
    """The answer.

    Attributes:
        options: safest, best and smallest; empty where nothing fits.
        frontier: candidates within the limits that no other beats in bytes, loss and speed at once, smallest first.
        warnings: precisions that another model beats at no more bytes.
        nearest: where nothing fits, what would.
    """

    options: tuple[Option, ...]
    frontier: tuple[Candidate, ...]
    warnings: tuple[str, ...]
    nearest: tuple[Relaxation, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "options": [option.to_json() for option in self.options],
            "frontier": [candidate.to_json() for candidate in self.frontier],
            "warnings": list(self.warnings),
            "nearest": [one.to_json() for one in self.nearest],
        }


def choose(candidates: Sequence[Candidate], limits: Limits) -> Advice:
    """Advice from candidates.

    Best is the least expected loss, safest the least upper end of the interval, smallest the fewest bytes within `SMALL_COST` of the best.
    """
    fitting = [one for one in candidates if _fits(one, limits)]
    warnings = tuple(_dominated([one for one in candidates if one.bytes <= limits.memory_bytes])[:_MOST_WARNINGS])
    if not fitting:
        return Advice((), (), warnings, tuple(_relaxed(candidates, limits)))
    best = min(fitting, key=lambda one: (one.loss, one.bytes))
    safest = min(fitting, key=lambda one: (one.loss_high, one.bytes))
    smallest = min((one for one in fitting if one.loss <= best.loss + SMALL_COST), key=lambda one: (one.bytes, one.loss))
    options = (
        Option("safest", safest, _safest_reason(safest, best)),
        Option("best", best, _best_reason(best, candidates, limits)),
        Option("smallest", smallest, _smallest_reason(smallest, best)),
    )
    return Advice(options, tuple(pareto(fitting)), warnings, ())


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other equals or beats in bytes, loss and speed, and beats in one; smallest first."""
    return sorted((one for one in candidates if not any(_beats(other, one) for other in candidates)), key=lambda one: (one.bytes, one.loss))


def _fits(one: Candidate, limits: Limits) -> bool:
    fast = limits.min_tokens_per_s is None or one.tokens_per_s >= limits.min_tokens_per_s
    good = limits.max_loss is None or one.loss <= limits.max_loss
    return one.bytes <= limits.memory_bytes and fast and good


def _beats(one: Candidate, other: Candidate) -> bool:
    as_good = one.bytes <= other.bytes and one.loss <= other.loss and one.tokens_per_s >= other.tokens_per_s
    return as_good and (one.bytes < other.bytes or one.loss < other.loss or one.tokens_per_s > other.tokens_per_s)


def _best_reason(best: Candidate, candidates: Sequence[Candidate], limits: Limits) -> str:
    text = f"the least expected loss of all that fits {bytes_text(limits.memory_bytes)}"
    larger = [one for one in candidates if one.params > best.params and one.bytes <= limits.memory_bytes]
    finer = [one for one in candidates if one.model == best.model and one.bits > best.bits and one.bytes > limits.memory_bytes]
    if larger:
        rival = min(larger, key=lambda one: one.loss)
        text += (
            f"; {rival.model} would have to go down to {rival.scheme} and is expected to lose {rival.loss - best.loss:+.3f} nats against it"
        )
    elif finer:
        text += f"; it is the largest model that fits, and {min(finer, key=lambda one: one.bits).bits} bits of it do not"
    return text + "."


def _safest_reason(safest: Candidate, best: Candidate) -> str:
    if safest is best:
        return "even the upper end of its interval is the lowest: nothing else is as good if the law is wrong."
    return (
        f"the upper end of its interval, {safest.loss_high:.3f}, is the lowest ({best.loss_high:.3f} for the best); "
        f"the expected loss is {safest.loss - best.loss:+.3f} nats against the best."
    )


def _smallest_reason(smallest: Candidate, best: Candidate) -> str:
    if smallest is best:
        return f"nothing smaller stays within {SMALL_COST:g} nats of the best."
    share, cost = 1 - smallest.bytes / best.bytes, smallest.loss - best.loss
    return f"{share:.0%} smaller than the best for {cost:+.3f} nats, and {_faster(smallest, best)}."


def _faster(one: Candidate, other: Candidate) -> str:
    ratio = one.tokens_per_s / other.tokens_per_s
    return f"{ratio:.2g} times as fast" if ratio >= 1 else f"{ratio:.0%} of its speed"


def _dominated(candidates: Sequence[Candidate]) -> list[str]:
    """A line for each model's largest k at which every scheme loses to another model of no more bytes; the largest models first."""
    lines = []
    for model in sorted({one.model for one in candidates}, key=lambda name: -max(one.params for one in candidates if one.model == name)):
        own = [one for one in candidates if one.model == model]
        for bits in sorted({one.bits for one in own}, reverse=True):
            pairs = [(one, min(_rivals(one, candidates), key=lambda rival: rival.loss, default=None)) for one in own if one.bits == bits]
            beaten = [(one, rival) for one, rival in pairs if rival is not None]
            if len(beaten) == len(pairs):
                lines.append(_loses(*min(beaten, key=lambda pair: pair[0].loss)))
                break
    return lines


def _loses(one: Candidate, rival: Candidate) -> str:
    return (
        f"{one.model} at {one.bits} bits loses to {rival.model} at {rival.bits} bits: {one.scheme} is expected at {one.loss:.3f} "
        f"in {bytes_text(one.bytes)}, {rival.scheme} at {rival.loss:.3f} in {bytes_text(rival.bytes)}"
    )


def _rivals(one: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    return [other for other in candidates if other.model != one.model and other.bytes <= one.bytes and other.loss < one.loss]


def _relaxed(candidates: Sequence[Candidate], limits: Limits) -> list[Relaxation]:
    """For each limit: what meets the others, and how far this one is from it; where no single limit helps, the smallest candidate."""
    found = []
    memory = limits.memory_bytes
    others = [one for one in candidates if _fits(one, Limits(1 << 62, limits.min_tokens_per_s, limits.max_loss))]
    if others:
        nearest = min(others, key=lambda one: one.bytes)
        found.append(Relaxation("memory", memory, nearest.bytes, nearest))
    if limits.min_tokens_per_s is not None:
        others = [one for one in candidates if _fits(one, Limits(memory, None, limits.max_loss))]
        if others:
            nearest = max(others, key=lambda one: one.tokens_per_s)
            found.append(Relaxation("min_speed", limits.min_tokens_per_s, nearest.tokens_per_s, nearest))
    if limits.max_loss is not None:
        others = [one for one in candidates if _fits(one, Limits(memory, limits.min_tokens_per_s, None))]
        if others:
            nearest = min(others, key=lambda one: one.loss)
            found.append(Relaxation("max_loss", limits.max_loss, nearest.loss, nearest))
    if not found and candidates:
        nearest = min(candidates, key=lambda one: one.bytes)
        found.append(Relaxation("memory", memory, nearest.bytes, nearest))
    return found
