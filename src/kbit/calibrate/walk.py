"""A transformers model as embeddings, a list of layers and a rest, of which one layer at a time is run.

The longest list of alike modules is the layers. While `LayerWalk` is at work each of them is a stand-in: `start` runs the model once with
stand-ins that pass the hidden states through, which yields what goes into the first layer and every other argument (masks, positions)
that each layer gets; `run` calls a true layer with them; `finish` runs what comes after the last layer. A layer is widened to float32 when
its turn comes, and what lies outside of the layers at once. Arithmetic is float32; in bfloat16 (`kbit.calibrate.arithmetic`) `run` and
`finish` round the factors of matrix products, and hidden states stay float32.

Memory beside the model: hidden states of all windows in float32, one layer and everything outside of the layers widened to float32.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import torch
from torch import nn

from kbit.calibrate.arithmetic import Arithmetic
from kbit.core.errors import ModelError
from kbit.core.memory import give_back_freed

__all__ = ["BATCH_TOKENS", "LayerWalk", "find_layers"]

#: tokens that a batch of windows has at most
BATCH_TOKENS = 8192


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """(dotted name, list) of a model's layers: the outermost `ModuleList` with the most parameters.

    Raises:
        ModelError: there is none, or an encoder and a decoder have one each.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"calibration runs models with one list of layers: {type(model).__name__} has an encoder and a decoder")
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    if not found:
        raise ModelError(f"calibration needs a model with a list of layers, got {type(model).__name__}")
    return max(found.items(), key=lambda item: sum(parameter.numel() for parameter in item[1].parameters()))


class _Reached(Exception):  # noqa: N818 (no error: it ends a run early)
    """The last layer was called."""


class LayerWalk:
    """Walks through the layers of `model` with the windows `ids` [windows, context], in `arithmetic`; use as a context manager.

    Attributes:
        name: dotted name of the list of layers.
        layers: the layers themselves.
    """

    def __init__(self, model: nn.Module, ids: torch.Tensor, arithmetic: Arithmetic = "float32") -> None:
        self._rounds = arithmetic == "bfloat16"
        self.name, listed = find_layers(model)
        self.layers = list(listed)
        self._model, self._list = model, listed
        self._batches = list(torch.split(ids, max(1, BATCH_TOKENS // ids.shape[1])))
        self._states: list[torch.Tensor] = []
        self._arguments: dict[tuple[int, int], tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._returns_tuple = False
        self._dtypes: dict[int, tuple[torch.Tensor, torch.dtype]] = {}

    def __enter__(self) -> Self:
        self._training = self._model.training
        self._model.eval()
        inside = {id(tensor) for layer in self.layers for tensor in _tensors(layer)}
        self._widen(tensor for tensor in _tensors(self._model) if id(tensor) not in inside)
        return self

    def __exit__(self, *_: object) -> None:
        self._narrow(tensor for tensor, _ in list(self._dtypes.values()))
        self._model.train(self._training)

    def open(self, index: int) -> nn.Module:
        """Layer `index`, in float32 until it is closed."""
        layer = self.layers[index]
        self._widen(_tensors(layer))
        return layer

    def close(self, index: int) -> None:
        """Give layer `index` its dtypes back, and the system what was freed since the last one."""
        self._narrow(_tensors(self.layers[index]))
        give_back_freed()

    @torch.no_grad()
    def start(self) -> None:
        """Run everything before the first layer, and learn what each layer is called with.

        Raises:
            ModelError: the model does not run on tokens alone, or skips a layer.
        """
        with self._stand_ins(self._record):
            for batch in self._batches:
                with suppress(_Reached):
                    self._call_model(batch)
        if len(self._states) != len(self._batches):
            raise ModelError(f"{type(self._model).__name__} does not call the first of its layers {self.name!r}")
        missing = [index for index in range(len(self.layers)) if (index, len(self._batches[0])) not in self._arguments]
        if missing:
            raise ModelError(f"{type(self._model).__name__} does not call layer {missing[0]} of {self.name!r}")

    @torch.no_grad()
    def run(self, index: int, *, keep: bool) -> None:
        """Call layer `index` with all hidden states; with `keep` its outputs become the hidden states."""
        layer = self.layers[index]
        with self._arithmetic():
            for number, states in enumerate(self._states):
                out = self._call_layer(layer, index, states)
                if keep:
                    self._states[number] = out.float()

    @torch.no_grad()
    def finish(self) -> None:
        """Run what comes after the last layer on its outputs."""
        waiting = iter(self._states)
        current: list[torch.Tensor] = []

        def replay(index: int, states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            return current[-1] if index == len(self.layers) - 1 else states

        with self._stand_ins(replay), self._arithmetic():
            for batch in self._batches:
                current.append(next(waiting))
                self._call_model(batch)

    @torch.no_grad()
    def rest(self, index: int) -> Iterator[tuple[torch.Tensor, Any]]:
        """(tokens of a batch, what the model answers) with layer `index` and all that follows called on the hidden states."""
        waiting = iter(self._states)
        current: list[torch.Tensor] = []

        def replay(number: int, states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            return current[-1] if number == index - 1 else states

        for batch in self._batches:
            current.append(next(waiting))
            with self._stand_ins(replay, index):
                answer = self._call_model(batch)
            yield batch, answer

    def _record(self, index: int, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        key = index, len(states)
        if index == 0:
            self._states.append(states.float())
        if key not in self._arguments:
            self._arguments[key] = args, kwargs
        if index == 0 and len(self._states) == 1:
            self._returns_tuple = isinstance(self.open(0)(states.float(), *args, **kwargs), tuple)
        if index == len(self.layers) - 1:
            raise _Reached  # what comes after the layers is of no interest yet
        return states

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self._rounds)

    def _call_layer(self, layer: nn.Module, index: int, states: torch.Tensor) -> torch.Tensor:
        args, kwargs = self._arguments[index, len(states)]
        out = layer(states, *args, **kwargs)
        result: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return result

    def _call_model(self, batch: torch.Tensor) -> Any:
        try:
            return self._model(input_ids=batch, use_cache=False) if self._takes_cache() else self._model(input_ids=batch)
        except TypeError as error:
            raise ModelError(f"{type(self._model).__name__} does not run on tokens alone: {error}") from error

    def _takes_cache(self) -> bool:
        return getattr(getattr(self._model, "config", None), "use_cache", None) is not None

    def _widen(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                self._dtypes[id(tensor)] = tensor, tensor.dtype
                tensor.data = tensor.data.float()

    def _narrow(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) in self._dtypes:
                tensor.data = tensor.data.to(self._dtypes.pop(id(tensor))[1])

    @contextmanager
    def _stand_ins(self, call: Callable[..., torch.Tensor], count: int | None = None) -> Iterator[None]:
        """Stand-ins for the first `count` layers, by default for all."""
        for index, layer in enumerate(self.layers[:count]):
            self._list[index] = _StandIn(index, call, lambda: self._returns_tuple, layer)
        try:
            yield
        finally:
            for index, layer in enumerate(self.layers):
                self._list[index] = layer


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


class _StandIn(nn.Module):
    """In a layer's place: has its plain attributes, which models look at, and none of its parameters."""

    def __init__(self, index: int, call: Callable[..., torch.Tensor], returns_tuple: Callable[[], bool], layer: nn.Module) -> None:
        super().__init__()
        own = set(self.__dict__)
        self.__dict__.update({name: value for name, value in layer.__dict__.items() if name not in own})
        self._index, self._call, self._tuple = index, call, returns_tuple

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        states, *rest = args or (kwargs.pop("hidden_states"),)
        out = self._call(self._index, states, *rest, **kwargs)
        return (out,) if self._tuple() else out
