"""The order in which a model's tensors are written: units that are finished together, in the order in which layers follow each other."""

import re
from collections.abc import Iterable

from kbit.core.errors import FormatError
from kbit.store.header import TensorSpec
from kbit.store.manifest import Manifest
from kbit.store.parts import part_specs

__all__ = ["layout_units"]


def layout_units(manifest: Manifest, plain: Iterable[TensorSpec]) -> dict[str, tuple[TensorSpec, ...]]:
    """Unit → its tensors, sorted by name, numbers in it by value; modules and plain tensors in one order, as layers follow each other."""
    units: dict[str, tuple[TensorSpec, ...]] = {name: part_specs(name, module) for name, module in manifest.modules.items()}
    for spec in plain:
        if spec.name in units:
            raise FormatError(f"tensor {spec.name!r} is listed twice")
        units[spec.name] = (spec,)
    return {name: units[name] for name in sorted(units, key=_natural)}


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in re.split(r"([0-9]{1,18})", name)]
