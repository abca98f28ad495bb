"""The weights of a model with what their layers get to see, in the order of its layers: what candidate encodings are made from.

Inputs are those of the original model, so that the weights can be tried one by one and in any order.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.allocate.units import Unit
from kbit.calibrate.observe import Observation, observed
from kbit.calibrate.sequential import encode_alone
from kbit.calibrate.walk import LayerWalk
from kbit.core.errors import ModelError
from kbit.core.methods import needs_inputs
from kbit.core.scheme import Scheme
from kbit.nn.targets import Target, find_targets
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["Seen", "observe_units", "replaced"]

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """A unit, its layer, and the inputs it gets.

    Attributes:
        unit: the weight.
        layer: index of the layer it is in, the first that its values change: 0 for an embedding, the number of layers for a head.
        target: the weight in the model.
        model: that holds it.
        inputs: what its layer saw; empty where its schemes do not ask.
    """

    unit: Unit
    layer: int
    target: Target
    model: nn.Module
    inputs: Observation
    _energies: dict[int, float] = field(default_factory=dict, repr=False, compare=False)

    def encode(self, scheme: Scheme, threads: int = 0) -> QuantizedTensor:
        """The weight under one scheme; the model keeps its own values."""
        return encode_alone(self.model, replace(self.target, scheme=scheme), self.inputs, threads=threads)

    @cached_property
    def weights(self) -> Float32:
        """Values [matrices, rows, cols] of the original."""
        values = self.model.get_parameter(self.target.parameter).detach()
        values = values.transpose(-1, -2) if self.target.transposed else values
        array: Float32 = values.float().reshape(-1, *self.target.shape[-2:]).contiguous().numpy()
        return array

    @cached_property
    def hessians(self) -> list[Float32] | None:
        """Mean of xᵀx [cols, cols] for each matrix, its diagonal alone where no scheme asks for more; None for no inputs, or zeros."""
        if self.unit.name not in self.inputs.moments:
            return None
        found = [one.hessian if one.full else np.diag(one.mean_square) for one in self.inputs.of(self.target)]
        return found if any(hessian.any() for hessian in found) else None

    def error(self, difference: Float32, every: int = 1) -> float:
        """‖ΔW Xᵀ‖² / ‖W Xᵀ‖² of differences [matrices, rows, cols]; both of one row in `every` alone, counted from the first."""
        if every not in self._energies:
            self._energies[every] = self.energy(self.weights[:, ::every])
        whole = self._energies[every]
        return self.energy(difference) / whole if whole else 0.0

    def energy(self, values: Float32) -> float:
        """Σ rows of v H vᵀ over all matrices; Σ v² where there is no H."""
        if self.hessians is None:
            return float(np.sum(np.square(values, dtype=np.float64)))
        pairs = zip(values, self.hessians, strict=True)
        return sum(float(np.sum((rows @ hessian) * rows, dtype=np.float64)) for rows, hessian in pairs)


def observe_units(model: nn.Module, units: Sequence[Unit], walk: LayerWalk) -> Iterator[tuple[int, list[Seen]]]:
    """(index of a layer, its units) in order; embeddings and the like come first with index 0, a head last.

    The walk goes on to the next layer as the iterator does.

    Raises:
        ModelError: the model has other weights than the units.
    """
    by_name = {unit.name: unit for unit in units}
    demanding = {unit.name: max(unit.schemes, key=_demand) for unit in units}
    found, _ = find_targets(model, lambda name, kind: demanding.get(name, Scheme("none", 16)))
    targets = [target for target in found if target.name in by_name]
    if {target.name for target in targets} != set(by_name):
        raise ModelError("the layers of the loaded model are not those of its checkpoint: it cannot be calibrated")
    inside: set[str] = set()
    layers = []
    for index in range(len(walk.layers)):
        layers.append([target for target in targets if target.name.startswith(f"{walk.name}.{index}.")])
        inside |= {target.name for target in layers[-1]}
    outside = [target for target in targets if target.name not in inside]
    blind = [target for target in outside if not needs_inputs(target.scheme.methods)]
    if blind:
        yield 0, [Seen(by_name[target.name], 0, target, model, Observation()) for target in blind]
    for index, layer in enumerate(layers):
        walk.open(index)
        with observed(model, [target for target in layer if needs_inputs(target.scheme.methods)]) as inputs:
            walk.run(index, keep=False)
        yield index, [Seen(by_name[target.name], index, target, model, inputs) for target in layer]
        walk.run(index, keep=True)
        walk.close(index)
    last = [target for target in outside if needs_inputs(target.scheme.methods)]
    if last:
        with observed(model, last) as inputs:
            walk.finish()
        yield len(layers), [Seen(by_name[target.name], len(layers), target, model, inputs) for target in last]


def _demand(scheme: Scheme) -> int:
    """How much of the inputs a scheme asks for: nothing, their squares, or all products."""
    return needs_inputs(scheme.methods) + (not {"gptq", "awq"}.isdisjoint(scheme.methods))


@contextmanager
def replaced(model: nn.Module, target: Target, values: Float32) -> Iterator[None]:
    """The model with other values for one weight, while the context lasts."""
    parameter = model.get_parameter(target.parameter)
    original = parameter.detach().clone()
    other = torch.from_numpy(values)
    if target.transposed:
        other = other.transpose(-1, -2)
    with torch.no_grad():
        parameter.copy_(other.reshape(parameter.shape))
    try:
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(original)
