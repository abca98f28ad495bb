"""The multiple-choice knapsack, solved exactly: one option for each item, total cost within a budget, least total loss.

Dynamic programming over partial choices: after each item those remain for which no other is both cheaper and better (Pareto). Two bounds
keep them few: what cannot be finished within the budget is dropped, and so is what, by the Lagrangian relaxation of the items to come,
cannot beat a choice that is known already. Both bounds are valid, so nothing that is optimal is ever lost.
Kellerer, Pferschy, Pisinger: "Knapsack Problems" (2004), chapter 11.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import NumericsError, SchemeError, ShapeError

__all__ = ["Choice", "choose"]

_BISECTIONS = 80
#: losses nearer than this (in parts of the best) count as equal, which is what sums of floats are anyway
_TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes:
        options: number of the option for each item.
        cost, loss: their sums.
    """

    options: tuple[int, ...]
    cost: int
    loss: float


def choose(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: int) -> Choice:
    """The options of least total loss whose total cost is at most `budget`.

    Args:
        costs: for each item the cost of each option, integers of at least 0.
        losses: for each item the loss of each option, finite; it may be below 0.
        budget: most total cost.

    Raises:
        ShapeError: no items, an item without options, or losses that are not as many as costs.
        NumericsError: a cost below 0, or a loss that is not finite.
        SchemeError: even the cheapest options cost more than the budget; the message says how much they cost.
    """
    items = _checked(costs, losses)
    least = sum(int(item.costs[0]) for item in items)
    if least > budget:
        raise SchemeError(f"expected a budget of at least {least:,}, what the smallest options take, got {budget:,}")
    price = _price(items, budget)
    best = _rounded(items, budget, price)
    found = _search(items, budget, price, _total(items, best)[1])
    picks = best if found is None else found
    cost, loss = _total(items, picks)
    return Choice(tuple(int(item.numbers[pick]) for item, pick in zip(items, picks, strict=True)), cost, loss)


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """Options that no other of the item dominates, by rising cost and falling loss."""

    numbers: NDArray[np.int64]
    costs: NDArray[np.int64]
    losses: NDArray[np.float64]

    def pick(self, price: float) -> int:
        return int(np.argmin(self.losses + price * self.costs))


def _checked(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]]) -> list[_Item]:
    if not costs or len(costs) != len(losses) or any(len(a) != len(b) or not len(a) for a, b in zip(costs, losses, strict=True)):
        raise ShapeError("expected at least one item, and for each as many losses as costs, at least one")
    items = []
    for one_costs, one_losses in zip(costs, losses, strict=True):
        cost, loss = np.asarray(one_costs, np.int64), np.asarray(one_losses, np.float64)
        if (cost < 0).any() or not np.isfinite(loss).all():
            raise NumericsError(f"expected costs of at least 0 and finite losses, got {cost.tolist()} and {loss.tolist()}")
        order = np.lexsort((loss, cost))
        before = np.concatenate([[np.inf], np.minimum.accumulate(loss[order])[:-1]])
        kept = order[loss[order] < before]
        items.append(_Item(kept, cost[kept], loss[kept]))
    return items


def _total(items: Sequence[_Item], picks: Sequence[int]) -> tuple[int, float]:
    pairs = list(zip(items, picks, strict=True))
    return sum(int(item.costs[pick]) for item, pick in pairs), sum(float(item.losses[pick]) for item, pick in pairs)


def _price(items: Sequence[_Item], budget: int) -> float:
    """The loss that a unit of cost is worth: the smallest multiplier at which the relaxed choice fits (0 where the best fits anyway)."""

    def cost_at(price: float) -> int:
        return sum(int(item.costs[item.pick(price)]) for item in items)

    if cost_at(0.0) <= budget:
        return 0.0
    low, high = 0.0, 1e-30
    while cost_at(high) > budget:
        low, high = high, high * 16
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost_at(middle) > budget else (low, middle)
    return high


def _rounded(items: Sequence[_Item], budget: int, price: float) -> list[int]:
    """A choice that fits: the relaxed one, and then whatever step saves most for its cost as long as one fits."""
    picks = [item.pick(price) for item in items]
    left = budget - _total(items, picks)[0]
    while True:
        best_gain, step = 0.0, None
        for index, (item, pick) in enumerate(zip(items, picks, strict=True)):
            for other in range(pick + 1, len(item.costs)):
                extra = int(item.costs[other] - item.costs[pick])
                gain = float(item.losses[pick] - item.losses[other])
                if extra <= left and gain / extra > best_gain:
                    best_gain, step = gain / extra, (index, other, extra)
        if step is None:
            return picks
        index, other, extra = step
        picks[index], left = other, left - extra


def _search(items: Sequence[_Item], budget: int, price: float, best: float) -> list[int] | None:
    """Picks that beat `best`; None where there are none."""
    relaxed = [float((item.losses + price * item.costs).min()) for item in items]
    rest_relaxed = np.concatenate([np.cumsum(relaxed[::-1])[::-1][1:], [0.0]])
    smallest = [int(item.costs[0]) for item in items]
    rest_cost = np.concatenate([np.cumsum(smallest[::-1])[::-1][1:], [0]]).astype(np.int64)
    limit = best - _TOLERANCE * abs(best)
    cost, loss = np.zeros(1, np.int64), np.zeros(1)
    trail: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for item, later_loss, later_cost in zip(items, rest_relaxed, rest_cost, strict=True):
        cost = (cost[:, None] + item.costs).ravel()
        loss = (loss[:, None] + item.losses).ravel()
        fits = cost + later_cost <= budget
        hopeful = loss + later_loss - price * (budget - cost) < limit
        places = np.flatnonzero(fits & hopeful)
        places = places[np.lexsort((loss[places], cost[places]))]
        before = np.concatenate([[np.inf], np.minimum.accumulate(loss[places])[:-1]])
        places = places[loss[places] < before]
        if not len(places):
            return None
        trail.append((places // len(item.costs), places % len(item.costs)))
        cost, loss = cost[places], loss[places]
    picks, at = [], int(np.argmin(loss))
    if loss[at] >= limit:
        return None
    for parents, options in reversed(trail):
        picks.append(int(options[at]))
        at = int(parents[at])
    return picks[::-1]
