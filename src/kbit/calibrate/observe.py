"""Inputs of the weights inside a module, gathered while it runs.

Linear layers are watched by hooks; layers that get the very same tensor (query, key and value) share one sum. Fused experts are run by
`KbitExperts` over their ordinary weights, expert by expert, so that each sees the rows that were routed to it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.calibrate.moments import InputMoments
from kbit.calibrate.room import Room
from kbit.nn.experts import KbitExperts
from kbit.nn.targets import Target

__all__ = ["Observation", "needs_hessian", "observed"]


def needs_hessian(target: Target) -> bool:
    """Whether the whole XᵀX of a weight's inputs is looked at."""
    return not {"gptq", "awq"}.isdisjoint(target.scheme.methods)


@dataclass(slots=True)
class _Leader:
    """The first layer that got an input; those that get the same one in its batch follow it from then on."""

    inputs: torch.Tensor | None
    moments: InputMoments
    full: bool
    rotated: bool


class Observation:
    """Moments by target: one for a matrix, one for each matrix of a stack."""

    def __init__(self, room: Room | None = None) -> None:
        self.moments: dict[str, list[InputMoments]] = {}
        self._stacks: dict[str, torch.Tensor] = {}
        self._room = room or Room()
        self._room.clear()
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
        full, rotated = needs_hessian(target), "rotate" in target.scheme.methods
        whole = "gptq" in target.scheme.methods  # of inputs as they come, whoever rotates it
        alike = (other for other in self._leaders.values() if other.full >= full and (whole or other.rotated == rotated))
        found = next((other for other in alike if _same(other.inputs, inputs)), None)
        if found is None:
            found = self._leaders[target.name] = _Leader(inputs, self._made(target), full, rotated)
            found.moments.add(inputs)
        self.moments[target.name] = [found.moments]

    def take_expert(self, target: Target, expert: int, inputs: torch.Tensor) -> None:
        """Rows that were routed to one expert."""
        self.stack(target)[expert].add(inputs)

    def stack(self, target: Target) -> list[InputMoments]:
        """Moments of the matrices of a stack; of those never reached too."""
        full, rotated = needs_hessian(target), "rotate" in target.scheme.methods
        if target.name not in self.moments:
            count, _, cols = target.shape
            sums = self._stacks[target.name] = self._room.zeros(*((count, cols, cols) if full else (count, cols)))
            self.moments[target.name] = [InputMoments(cols, full=full, rotated=rotated, storage=one) for one in sums]
        return self.moments[target.name]

    def hessian(self, target: Target) -> NDArray[np.float32]:
        """Mean of xᵀx for `target`, float32 [cols, cols], or [matrices, cols, cols] for a stack; in the memory or file of the sums."""
        means = [one.hessian for one in self.of(target)]
        return self._stacks[target.name].numpy() if target.kind == "experts" else means[0]

    def _made(self, target: Target) -> InputMoments:
        cols, full = target.shape[-1], needs_hessian(target)
        storage = self._room.zeros(*((cols, cols) if full else (cols,)))
        return InputMoments(cols, full=full, rotated="rotate" in target.scheme.methods, storage=storage)

    def of(self, target: Target) -> list[InputMoments]:
        """Moments for `target`, without any rows where it was never called."""
        if target.kind == "experts":
            return self.stack(target)
        empty = InputMoments(target.shape[-1], full=needs_hessian(target), rotated="rotate" in target.scheme.methods)
        return self.moments.get(target.name) or [empty]


def _same(held: torch.Tensor | None, inputs: torch.Tensor) -> bool:
    return held is not None and (held.data_ptr(), held.shape, held.stride()) == (inputs.data_ptr(), inputs.shape, inputs.stride())


@contextmanager
def observed(model: nn.Module, targets: Sequence[Target], room: Room | None = None) -> Iterator[Observation]:
    """Watch the layers of `targets` in `model` while the context lasts, with sums in `room`, of which nothing else is in use then."""
    found = Observation(room)
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
