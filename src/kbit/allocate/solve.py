"""Table of losses and budget → plan."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kbit.allocate.knapsack import choose
from kbit.allocate.sensitivity import Sensitivity
from kbit.allocate.units import Unit, plan_of
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme

__all__ = ["Allocation", "Costs", "allocate", "bytes_for_bpw"]

#: unit name → cost of each of its schemes, in their order
Costs = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was decided.

    Attributes:
        plan: schemes of all modules.
        chosen: free unit → its scheme.
        predicted_kl: sum of the losses of the free units, nats a token.
        bpw: bits stored for all encoded weights over their number.
    """

    plan: Plan
    chosen: Mapping[str, Scheme]
    predicted_kl: float
    bpw: float

    def to_json(self) -> dict[str, Any]:
        """JSON object; schemes by their text."""
        return {"predicted_kl": self.predicted_kl, "bpw": self.bpw, "chosen": {name: scheme.text for name, scheme in self.chosen.items()}}


def allocate(
    units: Sequence[Unit], sensitivity: Sensitivity, budget: int, *, base: Plan, free: Collection[str], costs: Costs | None = None
) -> Allocation:
    """The plan that loses least within a budget.

    Args:
        units: all weights, those with a scheme of the user's too: they take their part of the budget.
        sensitivity: losses of the free ones.
        budget: most that all units may cost together.
        base: the plan that `find_units` was asked with.
        free: what of it was left open.
        costs: of each unit's schemes; by default their bytes.

    Raises:
        SchemeError: the cheapest schemes exceed the budget.
    """
    table = {unit.name: unit.sizes for unit in units} if costs is None else costs
    losses = [sensitivity.of(unit) if unit.free else [0.0] for unit in units]
    found = choose([table[unit.name] for unit in units], losses, budget)
    picked = {unit.name: unit.schemes[option] for unit, option in zip(units, found.options, strict=True)}
    chosen = {unit.name: picked[unit.name] for unit in units if unit.free}
    encoded = [(unit, option) for unit, option in zip(units, found.options, strict=True) if not unit.schemes[option].is_none]
    size = sum(unit.sizes[option] for unit, option in encoded)
    weights = sum(unit.weights for unit, _ in encoded)
    return Allocation(plan_of(units, chosen, base, free), chosen, sensitivity.predict(chosen), 8 * size / weights if weights else 16.0)


def bytes_for_bpw(units: Sequence[Unit], bpw: float) -> int:
    """Bytes that all units may take at so many bits a weight.

    Raises:
        SchemeError: not a number of bits in 0…16.
    """
    if not 0 < bpw <= 16:
        raise SchemeError(f"expected a target of 0…16 bits a weight, got {bpw}")
    return int(bpw * sum(unit.weights for unit in units) / 8)
