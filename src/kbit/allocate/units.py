"""The weights that share a budget, and what each would take under each scheme that it may get.

The engine runs matrices of different schemes in one pass (query, key and value; gate and up), so every weight is a unit of its own.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme, TensorKind
from kbit.model.recipe import make_recipe
from kbit.store.folder import StoredModel
from kbit.tensor.quantized import part_bytes

__all__ = ["FREE", "Unit", "find_units", "plan_of", "stored_bytes"]

#: what may be left open: the scheme of linear layers (the plan's default), of embeddings, of the head
FREE = ("default", "embedding", "head")

#: two schemes that no plan names: where they make a difference, the plan leaves the scheme open
_PROBES = (Scheme("int", 4, group_size=1008), Scheme("int", 4, group_size=992))

Candidates = Callable[[TensorKind], Sequence[Scheme]]


@dataclass(frozen=True, slots=True)
class Unit:
    """A weight with the schemes that it may get.

    Attributes:
        name: of its module.
        kind: what its layer is.
        shape: of the packed matrix or stack.
        schemes: as recorded for it (`Scheme.for_row`), each once; a weight whose scheme the user named has that one alone.
        sizes: bytes stored under each.
        free: False where the user named the scheme.
    """

    name: str
    kind: TensorKind
    shape: tuple[int, ...]
    schemes: tuple[Scheme, ...]
    sizes: tuple[int, ...]
    free: bool

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


def stored_bytes(scheme: Scheme, shape: tuple[int, ...], kept_item: int = 2) -> int:
    """Bytes of all parts of a weight; `kept_item` is what a weight takes that is left as it is."""
    if scheme.is_none:
        return kept_item * math.prod(shape)
    return sum(part_bytes(scheme, shape).values())


def find_units(stored: StoredModel, plan: Plan, free: Collection[str], candidates: Candidates) -> list[Unit]:
    """Units of a checkpoint, in the order of its modules.

    Args:
        stored: the checkpoint in 16 bits.
        plan: schemes by rule, what is skipped, and the schemes of what is not free.
        free: of `FREE`, what of `plan` is left open.
        candidates: kind → schemes of a free unit.

    Raises:
        SchemeError: an unknown word in `free`, or nothing is left open.
        ModelError: as `make_recipe`.
    """
    for word in free:
        if word not in FREE:
            raise SchemeError(f"expected what is free to be of {', '.join(FREE)}, got {word!r}")
    first, second = (_with(plan, free, probe) for probe in _PROBES)
    units = []
    for name, unit in make_recipe(stored, first).packed.items():
        is_free = first.scheme_for(name, unit.kind) != second.scheme_for(name, unit.kind)
        schemes = _distinct(scheme.for_row(unit.shape[-1]) for scheme in candidates(unit.kind)) if is_free else (unit.scheme,)
        kept_item = 4 if unit.origin.dtype == "F32" else 2
        sizes = tuple(stored_bytes(scheme, unit.shape, kept_item) for scheme in schemes)
        units.append(Unit(name, unit.kind, unit.shape, schemes, sizes, is_free))
    if not any(unit.free for unit in units):
        raise SchemeError("expected at least one weight whose scheme is left open; rules and skips name them all")
    return units


def _with(plan: Plan, free: Collection[str], scheme: Scheme) -> Plan:
    return replace(
        plan,
        default=scheme if "default" in free else plan.default,
        embedding=scheme if "embedding" in free else plan.embedding,
        head=scheme if "head" in free else plan.head,
    )


def _distinct(schemes: Iterable[Scheme]) -> tuple[Scheme, ...]:
    return tuple(dict.fromkeys(schemes))


def plan_of(units: Sequence[Unit], chosen: Mapping[str, Scheme], base: Plan, free: Collection[str]) -> Plan:
    """The plan that gives each free unit its scheme of `chosen`; everything else as in `base`.

    The scheme that most linear weights get becomes the default; every other free unit has a rule of its own, by its full name.
    """
    weights: Counter[Scheme] = Counter()
    for unit in units:
        if unit.free and unit.kind not in ("embedding", "head"):
            weights[chosen[unit.name]] += unit.weights
    plan = replace(base, default=weights.most_common(1)[0][0]) if "default" in free and weights else base
    rules = [
        (f"^{_escaped(unit.name)}$", chosen[unit.name])
        for unit in units
        if unit.free and plan.scheme_for(unit.name, unit.kind) != chosen[unit.name]
    ]
    return replace(plan, rules=(*base.rules, *rules))


def _escaped(name: str) -> str:
    return name.replace(".", "[.]")
