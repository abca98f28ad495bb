"""The order in which the weights of a layer come to work: stages of those that get the same input.

Query, key and value are a stage, then the output projection, gate and up, down: each is encoded by its inputs once all stages before it
are encoded. What gets the same tensor cannot see what the others do to it, so its Hessian is gathered once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from kbit.calibrate.observe import watched
from kbit.core.methods import needs_inputs
from kbit.nn.targets import Target

__all__ = ["find_stages"]


def find_stages(model: nn.Module, targets: Sequence[Target], run: Callable[[], None]) -> list[list[Target]]:
    """`targets` of `model` by stages, in the order in which `run` (a few windows through the layer) calls them.

    Those without methods look at no input and go with the first stage; those that were not called come last.
    """
    calls = _Calls()
    with watched(model, [target for target in targets if needs_inputs(target.scheme.methods)], calls):
        run()
    blind = [target for target in targets if not needs_inputs(target.scheme.methods)]
    called = {target.name for stage in calls.stages for target in stage}
    late = [target for target in targets if needs_inputs(target.scheme.methods) and target.name not in called]
    first, *rest = [*calls.stages, late]
    return [stage for stage in ([*blind, *first], *rest) if stage]


class _Calls:
    """First calls, in order."""

    def __init__(self) -> None:
        self.stages: list[list[Target]] = []
        self._inputs: list[torch.Tensor] = []  # held, so that no other tensor can come to lie at the same place
        self._seen: set[str] = set()

    def take(self, target: Target, inputs: torch.Tensor) -> None:
        if target.name in self._seen:
            return
        self._seen.add(target.name)
        for stage, held in zip(self.stages, self._inputs, strict=True):
            if (held.data_ptr(), held.shape, held.stride()) == (inputs.data_ptr(), inputs.shape, inputs.stride()):
                stage.append(target)
                return
        self.stages.append([target])
        self._inputs.append(inputs)

    def take_expert(self, target: Target, expert: int, inputs: torch.Tensor) -> None:
        self.take(target, inputs)
