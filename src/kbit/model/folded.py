"""Rotations that go into a model's weights before anything of it is encoded (`kbit.folding`).

For a checkpoint they are part of how a tensor is read: an `Origin` that takes the norm's gain beside the tensor and answers with what the
fold makes of both. So streaming, calibration, resuming and copying go on as ever. Weights that are encoded next come in float32; those that
stay in 16 bits are rounded to the checkpoint's dtype once more. A module in memory is changed in place, in its own dtypes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.core.scheme import Scheme
from kbit.encoders.inputs import finite_float32
from kbit.folding.changes import Change, fold_importance
from kbit.folding.choose import DEFAULT_FOLD, FoldChoice, Tensors, as_folded, choose_changes
from kbit.model.architecture import TORCH_DTYPES, Origin, read_tensor
from kbit.model.recipe import PackUnit, Recipe
from kbit.nn.targets import Target
from kbit.store.folder import StoredModel

__all__ = ["Folded", "fold_module", "fold_recipe", "importance_of_folded", "place_folded"]


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """What `Origin.fuse` is for a tensor that a fold changes: of its own tensors and the norm's weight.

    Attributes:
        change: what becomes of it.
        origin: as it was before.
        gain: the norm's weight, or None.
        dtype: of the answer.
    """

    change: Change
    origin: Origin
    gain: Origin | None
    dtype: torch.dtype

    def __call__(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """The tensor after the fold.

        Raises:
            NumericsError: NaN or Inf, which a rotation would spread; names the place of the first.
        """
        own = tensors[: len(self.origin.keys)]
        values = own[0] if self.origin.fuse is None else self.origin.fuse(own)
        factors = None if self.gain is None else _factors(self.change, tensors[-1], self.gain.name)
        return torch.from_numpy(self.change.apply(_finite(values, self.origin.name), factors)).to(self.dtype)


def fold_recipe(stored: StoredModel, recipe: Recipe, fold: FoldChoice = DEFAULT_FOLD) -> Recipe:
    """The recipe with all rotations folded that `kbit.folding.choose` allows; the same recipe where there is none."""
    changes = choose_changes(stored.config, _tensors_of(recipe), fold)
    if not changes:
        return recipe
    origins = {unit.origin.name: unit.origin for unit in recipe.packed.values()} | {origin.name: origin for origin in recipe.plain.values()}

    def folded(origin: Origin, dtype: str) -> Origin:
        change = changes[origin.name]
        gain = None if change.gain is None else origins[change.gain.name]
        keys = (*origin.keys, *(() if gain is None else gain.keys))
        return replace(origin, keys=keys, dtype=dtype, fuse=Folded(change, origin, gain, TORCH_DTYPES[dtype]))

    packed = {
        name: replace(unit, origin=folded(unit.origin, "F32"), scheme=_scheme(unit.scheme, changes[unit.origin.name]))
        if unit.origin.name in changes
        else unit
        for name, unit in recipe.packed.items()
    }
    plain = {name: folded(origin, origin.dtype) if origin.name in changes else origin for name, origin in recipe.plain.items()}
    return replace(recipe, packed=packed, plain=plain, notes=(*recipe.notes, _note([unit.scheme for unit in packed.values()])))


def place_folded(model: nn.Module, stored: StoredModel, recipe: Recipe) -> None:
    """Put the folded values of a checkpoint into `model`, which was loaded from it."""
    for origin in (*(unit.origin for unit in recipe.packed.values()), *recipe.plain.values()):
        if isinstance(origin.fuse, Folded):
            with torch.no_grad():
                model.get_parameter(origin.name).copy_(read_tensor(stored, origin))


def importance_of_folded(stored: StoredModel, unit: PackUnit, importance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Importance of the inputs that a unit gets, from that of the inputs it got before the fold."""
    fuse = unit.origin.fuse
    if not isinstance(fuse, Folded) or not fuse.change.cols:
        return importance
    factors = None if fuse.gain is None else _factors(fuse.change, read_tensor(stored, fuse.gain), fuse.gain.name)
    return fold_importance(fuse.change, importance, factors)


def fold_module(model: nn.Module, targets: Sequence[Target], fold: FoldChoice = DEFAULT_FOLD) -> list[Target]:
    """Fold what can be folded into a transformers model in memory, in place; the targets with the schemes that are left to do.

    Raises:
        NumericsError: NaN or Inf in a tensor that a rotation would spread; the model is as it was.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict") or not any("rotate" in target.scheme.methods for target in targets):
        return list(targets)
    changes = choose_changes(config.to_dict(), _tensors_in(model, targets), fold)
    factors = {
        name: _factors(change, model.get_parameter(change.gain.name), change.gain.name)
        for name, change in changes.items()
        if change.gain is not None
    }
    for name in changes:
        _finite(model.get_parameter(name), name)
    with torch.no_grad():
        for name, change in changes.items():
            parameter = model.get_parameter(name)
            parameter.copy_(torch.from_numpy(change.apply(_finite(parameter, name), factors.get(name))))
    return [
        replace(target, scheme=_scheme(target.scheme, changes[target.parameter])) if target.parameter in changes else target
        for target in targets
    ]


def _scheme(scheme: Scheme, change: Change) -> Scheme:
    return as_folded(scheme) if change.cols else scheme


def _factors(change: Change, weight: torch.Tensor, name: str) -> NDArray[np.float64]:
    assert change.gain is not None, "only what follows a norm has its gain"
    return change.gain.of(_finite(weight, name))


def _finite(tensor: torch.Tensor, name: str) -> NDArray[np.float32]:
    return finite_float32(tensor.detach().to(torch.float32).contiguous().numpy(), name)


def _tensors_of(recipe: Recipe) -> Tensors:
    units = list(recipe.packed.values())
    shapes = {origin.name: origin.shape for origin in (*(unit.origin for unit in units), *recipe.plain.values())}
    tied = {name for pair in recipe.ties.items() for alias in pair for name in (alias, f"{alias}.weight")}
    return Tensors(shapes, {unit.origin.name: unit.scheme for unit in units}, tied)


def _tensors_in(model: nn.Module, targets: Sequence[Target]) -> Tensors:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return Tensors(
        shapes,
        {target.parameter: target.scheme for target in targets},
        {name for several in names.values() if len(several) > 1 for name in several},
    )


def _note(schemes: Sequence[Scheme]) -> str:
    folded, online = (sum(method in scheme.methods for scheme in schemes) for method in ("folded", "rotate"))
    return f"rotate: the rotation of {folded} weights is folded into their neighbours, {online} rotate their inputs as they run"
