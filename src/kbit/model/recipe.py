"""What will be done with each tensor of a checkpoint, decided before anything is read: encoded, copied, or tied to another."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from kbit.core.errors import DTypeError, ModelError
from kbit.core.methods import refuse_folded
from kbit.core.plan import Plan
from kbit.core.rotation import MIN_BLOCK
from kbit.core.scheme import Scheme, TensorKind
from kbit.model.architecture import Origin, build_skeleton, find_origins
from kbit.nn.targets import HEAD_NAMES, Kept, find_targets
from kbit.store.folder import StoredModel

__all__ = ["PackUnit", "Recipe", "make_recipe"]

FLOAT_TAGS = ("F32", "F16", "BF16", "F64")
_EMBEDDING_NAMES = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|shared)$")


@dataclass(frozen=True, slots=True)
class PackUnit:
    """A weight to encode.

    Attributes:
        origin: where it comes from.
        kind: what its layer is.
        scheme: how it will be encoded.
        shape: of the packed matrix or stack.
        transposed: the checkpoint has the last two dimensions the other way round.
    """

    origin: Origin
    kind: TensorKind
    scheme: Scheme
    shape: tuple[int, ...]
    transposed: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a folder's quantization will do.

    Attributes:
        packed: module name → weight to encode.
        plain: name → tensor to copy.
        ties: name that is not stored → the one that stands for it.
        kept: layers left alone although they could carry a scheme, and why.
        notes: what a user should know, such as an architecture that could not be read.
    """

    packed: Mapping[str, PackUnit]
    plain: Mapping[str, Origin]
    ties: Mapping[str, str]
    kept: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = field(default=())


def make_recipe(stored: StoredModel, plan: Plan) -> Recipe:
    """The recipe of a 16-bit checkpoint.

    Raises:
        ModelError: the checkpoint is quantized already, holds no layer the plan encodes, or contradicts its configuration.
        DTypeError: a weight to encode is of no float type.
        SchemeError: a scheme that only a packed model has.
    """
    method = stored.config.get("quantization_config")
    if stored.manifest is not None or method:
        name = method.get("quant_method") if isinstance(method, dict) else "kbit"
        raise ModelError(f"{stored.path} is already quantized ({name}): expected a checkpoint in 16 or 32 bits; decode it first")
    skeleton = build_skeleton(stored.config)
    origins = {origin.name: origin for origin in find_origins(stored, skeleton)}
    recipe = _by_names(origins, plan) if skeleton is None else _by_skeleton(stored, skeleton, origins, plan)
    for name, unit in recipe.packed.items():
        refuse_folded(unit.scheme.methods, name)
        if unit.origin.dtype not in FLOAT_TAGS:
            raise DTypeError(f"{name}: expected a weight of {', '.join(FLOAT_TAGS)}, got {unit.origin.dtype}")
    if not recipe.packed:
        raise ModelError(f"{stored.path}: the plan encodes none of its {len(origins)} tensors: check the schemes and the skip patterns")
    return replace(recipe, notes=(*recipe.notes, *_row_notes(recipe, plan)))


def _row_notes(recipe: Recipe, plan: Plan) -> Iterator[str]:
    asked = {name: plan.scheme_for(name, unit.kind) for name, unit in recipe.packed.items()}
    short = [name for name, unit in recipe.packed.items() if unit.scheme.group_size != asked[name].group_size]
    if short:
        yield f"{len(short)} weights have rows shorter than their scheme's group and get one scale a row (g-1), first {short[0]}"
    straight = [name for name, unit in recipe.packed.items() if "rotate" in asked[name].methods and "rotate" not in unit.scheme.methods]
    if straight:
        count = f"{len(straight)} weights"
        yield f"{count} have rows that are no multiple of {MIN_BLOCK} long and are encoded without rotate, first {straight[0]}"


def _by_skeleton(stored: StoredModel, skeleton: nn.Module, origins: dict[str, Origin], plan: Plan) -> Recipe:
    targets, kept = find_targets(skeleton, plan.scheme_for)
    packed: dict[str, PackUnit] = {}
    ties: dict[str, str] = {}
    used: set[str] = set()
    missing: list[Kept] = []
    for target in targets:
        names = [target.parameter, *(_parameter(target.kind, place) for place in target.places[1:])]
        present = [name for name in names if name in origins]
        if not present:
            missing.append(Kept(target.name, target.kind, "its weight is not in the checkpoint"))
            continue
        _check_alike(stored, [origins[name] for name in present])
        packed[target.name] = PackUnit(origins[present[0]], target.kind, target.scheme, target.shape, target.transposed)
        ties |= dict.fromkeys(target.places[1:], target.name)
        used |= set(names)
    plain: dict[str, Origin] = {}
    for group in _groups(skeleton, origins):
        present = [name for name in group if name in origins and name not in used]
        if present:
            _check_alike(stored, [origins[name] for name in present])
            plain[present[0]] = origins[present[0]]
            ties |= {name: present[0] for name in group if name != present[0] and name not in used}
    return Recipe(packed, plain, ties, (*kept, *missing))


def _parameter(kind: TensorKind, place: str) -> str:
    return place if kind == "experts" else f"{place}.weight"


def _groups(skeleton: nn.Module, origins: Mapping[str, Origin]) -> Iterator[list[str]]:
    """Names of the model's tensors, tied ones together; then those the model does not know."""
    groups: dict[int, list[str]] = {}
    for name, parameter in skeleton.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    yield from groups.values()
    known = {name for group in groups.values() for name in group}
    yield from ([name] for name in origins if name not in known)


def _check_alike(stored: StoredModel, origins: list[Origin]) -> None:
    """Tensors that the configuration ties must be one tensor in the checkpoint too."""
    first, *others = origins
    for other in others:
        if first.fuse or other.fuse or (first.shape, first.dtype) != (other.shape, other.dtype) or not _same_bytes(stored, first, other):
            raise ModelError(
                f"{stored.path}: config.json ties {other.name!r} to {first.name!r}, but the checkpoint holds different values for them: "
                f"set tie_word_embeddings to false in config.json"
            )


def _same_bytes(stored: StoredModel, first: Origin, second: Origin) -> bool:
    left, right = (stored.container_of(origin.keys[0]).chunks(origin.keys[0]) for origin in (first, second))
    return all(np.array_equal(one, other) for one, other in zip(left, right, strict=True))


def _by_names(origins: dict[str, Origin], plan: Plan) -> Recipe:
    """Without an architecture: matrices called `….weight` are layers, and their names say which."""
    packed: dict[str, PackUnit] = {}
    kept: list[Kept] = []
    for name, origin in origins.items():
        module = name.removesuffix(".weight")
        kind = _guess(module, origin) if module != name else None
        if kind is None:
            continue
        scheme = plan.scheme_for(module, kind)
        if scheme.is_none:
            kept.append(Kept(module, kind, "the plan keeps it in 16 bits"))
            continue
        rows, cols = origin.shape[0], math.prod(origin.shape[1:])
        packed[module] = PackUnit(origin, kind, scheme.for_row(cols), (rows, cols), False)
    used = {f"{name}.weight" for name in packed}
    plain = {name: origin for name, origin in origins.items() if name not in used}
    note = "config.json names no architecture known here: layers were told by the names and shapes of their weights"
    return Recipe(packed, plain, {}, tuple(kept), (note,))


def _guess(module: str, origin: Origin) -> TensorKind | None:
    if origin.dtype not in FLOAT_TAGS:
        return None
    if len(origin.shape) == 4:
        return "conv2d"
    if len(origin.shape) != 2:
        return None
    if module.rpartition(".")[2] in HEAD_NAMES:
        return "head"
    return "embedding" if _EMBEDDING_NAMES.search(module) else "linear"
