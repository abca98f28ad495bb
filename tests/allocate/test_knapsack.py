"""The knapsack against every choice there is."""

from itertools import product

import numpy as np
import pytest

from kbit.allocate.knapsack import choose
from kbit.core.errors import NumericsError, SchemeError, ShapeError


def by_force(costs: list[list[int]], losses: list[list[float]], budget: int) -> float:
    best = np.inf
    for picks in product(*(range(len(item)) for item in costs)):
        if sum(item[pick] for item, pick in zip(costs, picks, strict=True)) <= budget:
            best = min(best, sum(item[pick] for item, pick in zip(losses, picks, strict=True)))
    return best


@pytest.mark.parametrize("seed", range(120))
def test_is_the_best_of_all_choices(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 6, random.integers(1, 7))
    largest = int(random.choice([5, 40, 10_000]))
    costs = [random.integers(0, largest, size).tolist() for size in sizes]
    losses = [(random.random(size) ** 4 - (0.3 if seed % 3 == 0 else 0)).tolist() for size in sizes]
    least, most = sum(map(min, costs)), sum(map(max, costs))
    for budget in {least, (least + most) // 2, (2 * least + most) // 3, most}:
        found = choose(costs, losses, budget)
        assert found.cost <= budget
        assert found.cost == sum(item[pick] for item, pick in zip(costs, found.options, strict=True))
        assert found.loss == pytest.approx(sum(item[pick] for item, pick in zip(losses, found.options, strict=True)))
        assert found.loss == pytest.approx(by_force(costs, losses, budget), abs=1e-12)


def test_greedy_steps_are_not_enough() -> None:
    # by gain for its cost item 0 goes first, and leaves no room for the better pair
    found = choose([[0, 6], [0, 5], [0, 5]], [[10, 0], [8, 0], [8, 0]], 10)
    assert found.options == (0, 1, 1)


def test_many_items_of_real_sizes_are_quick() -> None:
    random = np.random.default_rng(7)
    bits = np.arange(2, 9)
    weights = random.integers(1, 60, 300) * 65_536
    costs = [(count * bits // 8 + 4 * 2**bits).tolist() for count in weights]
    losses = [(scale * 4.0**-bits * random.uniform(0.9, 1.1, len(bits))).tolist() for scale in random.lognormal(0, 1, 300)]
    budget = int(weights.sum() * 3.3 / 8)
    found = choose(costs, losses, budget)
    assert 0.999 * budget < found.cost <= budget


def test_refuses_what_cannot_be_solved() -> None:
    with pytest.raises(SchemeError, match="at least 7"):
        choose([[3, 5], [4, 9]], [[1, 0], [1, 0]], 6)
    with pytest.raises(ShapeError):
        choose([], [], 1)
    with pytest.raises(ShapeError):
        choose([[1, 2]], [[1.0]], 1)
    with pytest.raises(NumericsError):
        choose([[1, -2]], [[1.0, 0.0]], 1)
    with pytest.raises(NumericsError):
        choose([[1, 2]], [[1.0, float("nan")]], 1)
