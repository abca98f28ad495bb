"""Recipes by name: what is done at a size for how much time.

    fast    the nearest levels with searched scales, one scheme for all; no calibration
    good    one scheme for all, with the methods that look at inputs
    best    a scheme for each weight, by its sensitivity, with the same methods, and trellis codes among the schemes

Without a calibration text the embedded excerpts of eight books stand in: enough to tell sensitive weights from others, and to weigh inputs,
but English prose of one time; a text like that which the model will see is better.
"""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

from kbit.allocate.units import Unit, stored_bytes
from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme

__all__ = ["QUALITIES", "Quality", "books", "uniform"]

Quality = Literal["fast", "good", "best"]
QUALITIES: tuple[Quality, ...] = ("fast", "good", "best")


def books() -> list[Path]:
    """The embedded text: excerpts of eight public-domain books."""
    folder = Path(str(files("kbit").joinpath("data", "books")))
    return sorted(folder.glob("*.txt"))


def uniform(units: Sequence[Unit], schemes: Sequence[Scheme], base: Plan, fits: Callable[[Plan], bool]) -> Plan:
    """The plan with the largest of `schemes` as its default that `fits`.

    Raises:
        SchemeError: none does; the message says how many bits a weight the smallest takes.
    """
    sizes = {scheme: sum(stored_bytes(scheme.for_row(unit.shape[-1]), unit.shape) for unit in units if unit.free) for scheme in schemes}
    for scheme in sorted(schemes, key=lambda one: -sizes[one]):
        if fits(base.with_default(scheme)):
            return base.with_default(scheme)
    weights = sum(unit.weights for unit in units if unit.free)
    raise SchemeError(f"expected room for one scheme for all weights, at least {8 * min(sizes.values()) / weights:.3f} bits each")
