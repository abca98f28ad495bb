"""Ties while a model is being loaded.

transformers builds a model on the meta device without its ties, loads by name, and ties at the end by setting `weight` of one module to
that of another, padding the bias to the weight's first dimension. Neither fits a packed weight: several arrays are one weight, and their
first dimension counts bytes. So ties between packed layers are taken out of transformers' hands: found here before, made here after.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from kbit.nn.packed import PackedModule, share_packed
from kbit.nn.swap import packed_modules
from kbit.nn.targets import Target

__all__ = ["adjust_bias", "as_tied", "drop_aliases", "packed_groups", "packed_layer", "share_aliases", "take_ties", "weight_names"]


def weight_names(target: Target) -> dict[str, str]:
    """Parameter of the ordinary model → place (module) of `target` that holds it."""
    return {place if target.kind == "experts" else f"{place}.weight": place for place in target.places}


@contextmanager
def as_tied(model: Any, skip: Callable[[str, str], bool] = lambda target, source: False) -> Iterator[None]:
    """Within the block, tied parameters of the skeleton `model` are one object, as they will be in the finished model.

    Args:
        model: a model on the meta device.
        skip: (target, source) → True for a pair that is not to be tied after all.
    """
    before: list[tuple[nn.Module, str, nn.Parameter | None]] = []
    try:
        for target, source in model.all_tied_weights_keys.items():
            holder, name = _holder(model, target)
            owner, owned = _holder(model, source)
            if name in holder._parameters and owned in owner._parameters and not skip(target, source):
                before.append((holder, name, holder._parameters[name]))
                holder._parameters[name] = owner._parameters[owned]
        yield
    finally:
        for holder, name, parameter in reversed(before):
            holder._parameters[name] = parameter


def take_ties(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Take the pairs that touch `names` out of the ties that transformers will make; returns them."""
    mine = set(names)
    taken = {target: source for target, source in model.all_tied_weights_keys.items() if target in mine or source in mine}
    for target in taken:
        del model.all_tied_weights_keys[target]
    return taken


def drop_aliases(model: nn.Module, stored: str, places: Iterable[str]) -> None:
    """Take the empty arrays away from every place but `stored`: the loader then neither looks for them nor invents them."""
    for place in places:
        if place != stored:
            layer = packed_layer(model, place)
            for part in layer.part_names:
                layer._parameters.pop(part, None)
            layer._is_hf_initialized = True  # type: ignore[assignment]


def share_aliases(model: nn.Module, stored: str, places: Iterable[str]) -> None:
    """Let every place hold the arrays of `stored`."""
    share_packed(packed_layer(model, stored), *(packed_layer(model, place) for place in places if place != stored))


def packed_groups(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Module that a packed weight is stored under → the others that share it; an embedding comes before the head tied to it."""
    groups: dict[int, list[str]] = {}
    for name, layer in packed_modules(model).items():
        groups.setdefault(id(layer._parameters["weight"]), []).append(name)
    for group in groups.values():
        group.sort(key=lambda name: not isinstance(model.get_submodule(name), nn.Embedding))
    return {stored: tuple(others) for stored, *others in groups.values()}


def adjust_bias(output: nn.Module, source: Any) -> None:
    """`PreTrainedModel._adjust_bias`, which leaves packed layers alone; stands before it on each k-bit model."""
    if not isinstance(output, PackedModule):
        PreTrainedModel._adjust_bias(None, output, source)


def packed_layer(model: nn.Module, place: str) -> PackedModule:
    """The packed layer that stands at `place`."""
    layer = model.get_submodule(place)
    assert isinstance(layer, PackedModule)
    return layer


def _holder(model: nn.Module, parameter: str) -> tuple[nn.Module, str]:
    path, _, name = parameter.rpartition(".")
    return model.get_submodule(path), name
