"""Ties while a model is being loaded.

transformers builds a model on the meta device without its ties, loads by name, and ties at the end by setting `weight` of one module to
that of another, padding the bias to the weight's first dimension. Neither fits a packed weight: several arrays are one weight, and their
first dimension counts bytes. So ties between packed layers are taken out of transformers' hands: found here before, made here after.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from kbit.nn.packed import PackedModule, share_packed
from kbit.nn.targets import Target

__all__ = ["adjust_bias", "as_tied", "drop_aliases", "packed_layer", "share_aliases", "take_ties", "weight_names", "without_aliases"]


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


def without_aliases(state: Mapping[str, Any], model: nn.Module, groups: Iterable[tuple[str, Iterable[str]]]) -> dict[str, Any]:
    """`state` without the arrays of places that share those of another; `groups` are (stored, places)."""
    dropped = {
        f"{place}.{part}"
        for stored, places in groups
        for place in places
        if place != stored
        for part in packed_layer(model, place).part_names
    }
    return {name: value for name, value in state.items() if name not in dropped}


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
