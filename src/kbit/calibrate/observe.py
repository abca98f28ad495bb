"""Inputs of the weights inside a module, gathered while it runs.

Linear layers are watched by hooks; layers that get the very same tensor (query, key and value) share one sum. Fused experts are run by
`KbitExperts` over their ordinary weights, expert by expert, so that each sees the rows that were routed to it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kbit.calibrate.moments import InputMoments
from kbit.nn.experts import KbitExperts
from kbit.nn.targets import Target

__all__ = ["Observation", "observed"]


@dataclass(slots=True)
class _Leader:
    """The first layer that got an input; those that get the same one in its batch follow it from then on."""

    inputs: torch.Tensor | None
    moments: InputMoments
    full: bool
    rotated: bool


class Observation:
    """Moments by target: one for a matrix, one for each matrix of a stack."""

    def __init__(self) -> None:
        self.moments: dict[str, list[InputMoments]] = {}
        self._leaders: dict[str, _Leader] = {}

    def take(self, target: Target, inputs: torch.Tensor) -> None:
        """What the layer of `target` was called with."""
        leader = self._leaders.get(target.name)
        if leader is not None:
            if leader.inputs is not None:
                for other in self._leaders.values():  # a second batch: nobody else can come with the first one's tensors
                    other.inputs = None
            leader.moments.add(inputs)
            return
        if target.name in self.moments:
            return  # it follows another
        full, rotated = "gptq" in target.scheme.methods, "rotate" in target.scheme.methods
        alike = (other for other in self._leaders.values() if other.full >= full and (full or other.rotated == rotated))
        found = next((other for other in alike if _same(other.inputs, inputs)), None)
        if found is None:
            found = self._leaders[target.name] = _Leader(inputs, _moments(target), full, rotated)
            found.moments.add(inputs)
        self.moments[target.name] = [found.moments]

    def take_expert(self, target: Target, expert: int, inputs: torch.Tensor) -> None:
        """Rows that were routed to one expert."""
        self.stack(target)[expert].add(inputs)

    def stack(self, target: Target) -> list[InputMoments]:
        """Moments of the matrices of a stack; of those never reached too."""
        made = [_moments(target) for _ in range(target.shape[0])] if target.name not in self.moments else []
        return self.moments.setdefault(target.name, made)

    def of(self, target: Target) -> list[InputMoments]:
        """Moments for `target`, without any rows where it was never called."""
        if target.kind == "experts":
            return self.stack(target)
        return self.moments.get(target.name) or [_moments(target)]


def _moments(target: Target) -> InputMoments:
    methods = target.scheme.methods
    return InputMoments(target.shape[-1], full="gptq" in methods, rotated="rotate" in methods)


def _same(held: torch.Tensor | None, inputs: torch.Tensor) -> bool:
    return held is not None and (held.data_ptr(), held.shape, held.stride()) == (inputs.data_ptr(), inputs.shape, inputs.stride())


@contextmanager
def observed(model: nn.Module, targets: Sequence[Target]) -> Iterator[Observation]:
    """Watch the layers of `targets` in `model` while the context lasts."""
    found = Observation()
    undo: list[Callable[[], object]] = []
    stacks: dict[str, dict[str, Target]] = {}
    try:
        for target in targets:
            if target.kind == "experts":
                stacks.setdefault(target.owner, {})[target.name.rpartition(".")[2]] = target
            else:
                undo += [model.get_submodule(place).register_forward_pre_hook(_hook(found, target)).remove for place in target.places]
        for owner, projections in stacks.items():
            layer = model.get_submodule(owner)
            layer.__dict__["forward"] = _ObservedExperts(layer, found, projections).forward
            undo.append(lambda layer=layer: layer.__dict__.pop("forward"))  # type: ignore[misc]
        yield found
    finally:
        for call in undo:
            call()


def _hook(found: Observation, target: Target) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        found.take(target, args[0])

    return hook


class _ObservedExperts(KbitExperts):
    """Experts in their ordinary weights that tell what each projection gets."""

    def __init__(self, origin: nn.Module, found: Observation, projections: dict[str, Target]) -> None:
        super().__init__(origin, {})
        self._found, self._projections = found, projections

    def _project(self, x: torch.Tensor, name: str, expert: int) -> torch.Tensor:
        if name in self._projections:
            self._found.take_expert(self._projections[name], expert, x)
        return super()._project(x, name, expert)
