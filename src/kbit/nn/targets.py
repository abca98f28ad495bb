"""Which weights of a module can be packed, what kind each is, and which of them are one.

`find_targets` walks any torch module and answers with one `Target` for each distinct weight. Layers that share a weight (a head tied
to the embedding, ALBERT's repeated layers) are one target with several places, so the weight is encoded and stored once. A layer that
cannot be swapped safely is `Kept` with the reason, never dropped silently.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from kbit.core.scheme import Scheme, TensorKind
from kbit.nn.experts import expert_projections, is_experts
from kbit.nn.packed import PackedModule

__all__ = ["HEAD_NAMES", "Kept", "SchemeChoice", "Target", "find_targets", "packed_kind"]

#: last part of the names of output heads, for modules without `get_output_embeddings`
HEAD_NAMES = frozenset({"lm_head", "embed_out", "output_projection", "output_head", "unembed"})

SchemeChoice = Callable[[str, TensorKind], Scheme]
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """One weight to pack.

    Attributes:
        name: dotted name of the packed module to be (for experts: of the projection).
        kind: what the layer is.
        scheme: how it will be encoded: never "16", and ``g-1`` where the group chosen would outreach a row.
        parameter: dotted name of the weight in the ordinary model.
        shape: shape of the packed matrix [rows, cols] or stack [count, rows, cols]; a row is an output.
        transposed: the ordinary weight has its last two dimensions the other way round.
        dtype: of the ordinary weight.
        places: all (dotted names) that hold this weight, `name` first.
    """

    name: str
    kind: TensorKind
    scheme: Scheme
    parameter: str
    shape: tuple[int, ...]
    transposed: bool
    dtype: torch.dtype
    places: tuple[str, ...]

    @property
    def owner(self) -> str:
        """The module that will be replaced; experts are replaced as a whole."""
        return self.name.rpartition(".")[0] if self.kind == "experts" else self.name


@dataclass(frozen=True, slots=True)
class Kept:
    """A layer that stays as it is, and why."""

    name: str
    kind: TensorKind
    reason: str


@dataclass(frozen=True, slots=True)
class _Weight:
    name: str
    kind: TensorKind
    parameter: str
    tensor: torch.Tensor
    transposed: bool
    obstacle: str = ""


def find_targets(model: nn.Module, choose: SchemeChoice) -> tuple[list[Target], list[Kept]]:
    """Targets and kept layers of `model`, in the order of its modules.

    Args:
        model: any module; nothing is changed, and weights may be on the meta device.
        choose: (name, kind) → scheme, such as `Plan.scheme_for`.
    """
    holders = _holders(model)
    groups: dict[Key, list[_Weight]] = {}
    for weight in _weights(model):
        groups.setdefault(_key(weight.tensor), []).append(weight)
    targets: list[Target] = []
    kept: list[Kept] = []
    for key, group in groups.items():
        # a tied head follows the embedding: both are one tensor, and the embedding is what gives it its name
        group.sort(key=lambda weight: weight.kind != "embedding")
        first = group[0]
        scheme = choose(first.name, first.kind)
        reason = "the plan keeps it in 16 bits" if scheme.is_none else _obstacle(group, holders[key])
        if reason:
            kept += [Kept(weight.name, weight.kind, reason) for weight in group]
        else:
            targets.append(_target(group, scheme))
    return targets, kept


def packed_kind(model: nn.Module, layer: PackedModule) -> TensorKind:
    """What a packed layer of `model` is."""
    if isinstance(layer, nn.Linear):
        return "head" if id(layer) in _heads(model) else "linear"
    if isinstance(layer, nn.Embedding):
        return "embedding"
    if len(layer.packed_shape) == 3:
        return "experts"
    return "conv2d" if isinstance(layer, nn.Conv2d) else "conv1d"


def _target(group: list[_Weight], scheme: Scheme) -> Target:
    first = group[0]
    shape = tuple(first.tensor.shape)
    if first.kind == "conv2d":
        shape = (shape[0], shape[1] * shape[2] * shape[3])
    if first.transposed:
        shape = (*shape[:-2], shape[-1], shape[-2])
    places = tuple(weight.name for weight in group)
    return Target(first.name, first.kind, scheme.for_row(shape[-1]), first.parameter, shape, first.transposed, first.tensor.dtype, places)


def _obstacle(group: list[_Weight], holders: set[str]) -> str:
    for weight in group:
        if weight.obstacle:
            return weight.obstacle
    strangers = holders - {weight.parameter for weight in group}
    if strangers:
        return f"its weight is also {min(strangers)!r}, which is not a layer that can be packed"
    if len({(weight.transposed, weight.kind in ("conv2d", "experts")) for weight in group}) > 1:
        return "its weight is shared by layers that read it in different ways"
    return ""


def _holders(model: nn.Module) -> dict[Key, set[str]]:
    """Weight → dotted names of all parameters that are it (each module under its first name)."""
    found: dict[Key, set[str]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(_key(parameter), set()).add(f"{prefix}.{name}" if prefix else name)
    return found


def _key(tensor: torch.Tensor) -> Key:
    """Equal for parameters that are one memory. On the meta device, where there is none: the same object."""
    if tensor.is_meta or tensor.numel() == 0:
        return (id(tensor),)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _weights(model: nn.Module) -> Iterator[_Weight]:
    heads = _heads(model)
    attention = {id(module.out_proj) for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    for name, module in model.named_modules():
        if isinstance(module, PackedModule):
            continue
        if is_experts(module):
            yield from _expert_weights(name, module)
            continue
        kind = _kind(name, module, heads)
        if kind is not None:
            weight = module._parameters.get("weight")
            parameter = f"{name}.weight" if name else "weight"
            if weight is not None:
                obstacle = (
                    "nn.MultiheadAttention reads its weight directly" if id(module) in attention else _layer_obstacle(name, module, weight)
                )
                yield _Weight(name, kind, parameter, weight, kind == "conv1d", obstacle)


def _expert_weights(name: str, module: nn.Module) -> Iterator[_Weight]:
    prefix = f"{name}." if name else ""
    obstacle = "" if name else "a model that is a single layer cannot be replaced in place"
    for projection in expert_projections(module):
        weight = module._parameters[projection]
        assert weight is not None, "is_experts looked"
        yield _Weight(prefix + projection, "experts", prefix + projection, weight, bool(module.is_transposed), obstacle)


def _heads(model: nn.Module) -> set[int]:
    ask = getattr(model, "get_output_embeddings", None)
    named = {id(module) for name, module in model.named_modules() if name.rpartition(".")[2] in HEAD_NAMES}
    found = ask() if callable(ask) else None
    return named | {id(found)} if isinstance(found, nn.Module) else named


def _kind(name: str, module: nn.Module, heads: set[int]) -> TensorKind | None:
    if isinstance(module, nn.Linear):
        return "head" if id(module) in heads else "linear"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Conv2d):
        return "conv2d"
    # by its own name: transformers is not needed here
    return "conv1d" if type(module).__name__ == "Conv1D" and hasattr(module, "nf") else None


def _layer_obstacle(name: str, module: nn.Module, weight: torch.Tensor) -> str:
    if not name:
        return "a model that is a single layer cannot be replaced in place"
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype}, not a float type"
    if weight.numel() == 0:
        return "its weight is empty"
    if getattr(module, "parametrizations", None):
        return "its weight is computed from other parameters (torch.nn.utils.parametrize)"
    if isinstance(module, nn.Embedding):
        return _embedding_obstacle(module)
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        return f"it is a convolution of {module.groups} groups"
    for base in (nn.Linear, nn.Conv2d):
        if isinstance(module, base) and type(module).forward is not base.forward:
            return f"{type(module).__name__} has a forward of its own"
    return ""


def _embedding_obstacle(module: nn.Embedding) -> str:
    if module.max_norm is not None:
        return "max_norm rewrites rows as they are read"
    scaled = type(module).__name__.endswith("ScaledWordEmbedding") and hasattr(module, "embed_scale")
    if type(module).forward is not nn.Embedding.forward and not scaled:
        return f"{type(module).__name__} has a forward of its own"
    return ""
