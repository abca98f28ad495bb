"""What a user names (bits a weight, a file's size, a time a token) as a budget, and the plan that comes of it."""

from collections.abc import Collection, Sequence

from kbit.allocate.sensitivity import Sensitivity
from kbit.allocate.solve import Allocation, allocate, bytes_for_bpw
from kbit.allocate.units import Unit, plan_of
from kbit.calibrate.text import CalibrationWindows
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.sizes import bytes_text
from kbit.model.quantize import make_manifest
from kbit.model.recipe import make_recipe
from kbit.store.folder import StoredModel
from kbit.store.header import TensorSpec
from kbit.store.model_writer import DEFAULT_SHARD_BYTES
from kbit.store.planned import planned_bytes

__all__ = ["file_bytes", "for_bpw", "for_size"]

_MOST_TRIES = 20


def for_bpw(units: Sequence[Unit], sensitivity: Sensitivity, bpw: float, *, base: Plan, free: Collection[str]) -> Allocation:
    """The best plan of at most so many bits a weight, over all encoded weights.

    Raises:
        SchemeError: no plan is that small; the message says how small one can be.
    """
    budget = bytes_for_bpw(units, bpw)
    least = sum(min(unit.sizes) for unit in units)
    if least > budget:
        weights = sum(unit.weights for unit in units)
        raise SchemeError(
            f"expected a target of at least {8 * least / weights:.3f} bits a weight, what the smallest schemes take, got {bpw}"
        )
    return allocate(units, sensitivity, budget, base=base, free=free)


def for_size(
    stored: StoredModel,
    units: Sequence[Unit],
    sensitivity: Sensitivity,
    size_bytes: int,
    *,
    base: Plan,
    free: Collection[str],
    windows: CalibrationWindows | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> Allocation:
    """The best plan whose weight files, headers and all, take at most `size_bytes`.

    Headers name each module's scheme, so their size depends on the plan: the budget of the weights is what the last plan left of it.

    Raises:
        SchemeError: no plan is that small; the message says how small one can be.
    """
    smallest = {unit.name: unit.schemes[unit.sizes.index(min(unit.sizes))] for unit in units}
    least_units = sum(min(unit.sizes) for unit in units)
    least = file_bytes(stored, plan_of(units, smallest, base, free), windows, max_shard_bytes)
    budget = size_bytes - (least - least_units)
    for _ in range(_MOST_TRIES):
        if budget < least_units:
            break
        found = allocate(units, sensitivity, budget, base=base, free=free)
        excess = file_bytes(stored, found.plan, windows, max_shard_bytes) - size_bytes
        if excess <= 0:
            return found
        budget -= excess
    raise SchemeError(
        f"expected a target of at least about {bytes_text(least)}, what the smallest schemes take, got {bytes_text(size_bytes)}"
    )


def file_bytes(
    stored: StoredModel, plan: Plan, windows: CalibrationWindows | None = None, max_shard_bytes: int = DEFAULT_SHARD_BYTES
) -> int:
    """Bytes of the weight files that a plan makes of a checkpoint."""
    recipe = make_recipe(stored, plan)
    plain = [TensorSpec(name, origin.dtype, origin.shape) for name, origin in recipe.plain.items()]
    return planned_bytes(make_manifest(stored, recipe, plan, windows), plain, max_shard_bytes)
