"""Encodes a model layer by layer, each by its inputs as they are once all layers before it are encoded.

    embeddings and other modules before the layers     encoded first, by the nearest level
    layer 0, 1, …    run it on the hidden states and gather its inputs → encode its weights → put their decoded values in → run it again
    the head         by its inputs from the encoded layers

Weights stay those of the model until their layer's inputs are gathered; after that the model holds decoded values, in float32, or none:
a model that is of no further use (`spend`) gives back the weights of every layer that has been run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.calibrate.arithmetic import Arithmetic
from kbit.calibrate.awq import Scaling, fold_layer
from kbit.calibrate.folds import Fold, find_folds
from kbit.calibrate.moments import InputMoments
from kbit.calibrate.observe import Observation, needs_hessian, observed
from kbit.calibrate.room import Room
from kbit.calibrate.text import CalibrationWindows
from kbit.calibrate.walk import BATCH_TOKENS, LayerWalk, find_layers
from kbit.core.errors import KbitError, ModelError, NumericsError, SchemeError
from kbit.core.memory import give_back_freed
from kbit.core.methods import NEEDS_INPUTS, needs_inputs
from kbit.core.scheme import Scheme
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.nearest import encode
from kbit.nn.swap import encode_target
from kbit.nn.targets import Target
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["CalibrationReport", "calibration_bytes", "check_methods", "encode_alone", "encode_sequentially"]

#: results of a layer that a batch has at a time, each as wide as its widest
_BETWEEN = 5

Known = Callable[[str], QuantizedTensor | None]


@dataclass(slots=True)
class CalibrationReport:
    """What the calibration text reached.

    Attributes:
        tokens, windows: amount of text.
        seed: what drew the windows.
        digest: SHA-256 hex of the tokens.
        experts: projection of experts → input rows that each expert got.
        unseen: weights (with the number of the expert) whose inputs were never seen, or always 0: encoded as if all inputs were alike.
        scaling: what ``+awq`` did.
        unscaled: weights with ``+awq`` whose inputs come from nothing that can take a factor.
        corrected, uncorrected: weights with ``+bias``, whose layer has a bias or none.
    """

    tokens: int
    windows: int
    seed: int
    digest: str
    experts: dict[str, list[int]] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    scaling: Scaling = field(default_factory=Scaling)
    unscaled: list[str] = field(default_factory=list)
    corrected: list[str] = field(default_factory=list)
    uncorrected: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, windows: CalibrationWindows) -> "CalibrationReport":
        """Nothing reached yet."""
        return cls(windows.tokens, len(windows.ids), windows.seed, windows.digest)

    def notes(self) -> tuple[str, ...]:
        """What a user should know: weights that the text did not reach."""
        told = (
            (self.unseen, "the calibration text never reached {} weights, encoded as if all inputs were alike, first {}"),
            (self.unscaled, "awq was not applied to {} weights, whose inputs come from nothing that can take a factor, first {}"),
            (self.uncorrected, "bias was not applied to {} weights, whose layers have none, first {}"),
        )
        return tuple(text.format(len(names), names[0]) for names, text in told if names)

    @property
    def changed(self) -> list[str]:
        """Names of parameters with other values that are not among the weights to encode."""
        return list(dict.fromkeys([*self.scaling.changed, *(f"{name}.bias" for name in self.corrected)]))

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "tokens": self.tokens,
            "windows": self.windows,
            "seed": self.seed,
            "digest": self.digest,
            "experts": {name: list(rows) for name, rows in self.experts.items()},
            "unseen": list(self.unseen),
            "awq": dict(self.scaling.alphas),
            "bias": list(self.corrected),
        }


def check_methods(targets: Sequence[Target]) -> None:
    """Refuse methods that need inputs where a weight has none.

    Raises:
        SchemeError: an embedding or a convolution with a method; names it.
    """
    for target in targets:
        if needs_inputs(target.scheme.methods) and target.kind in ("embedding", "conv2d"):
            method = next(method for method in target.scheme.methods if method in NEEDS_INPUTS)
            raise SchemeError(
                f"{target.name}: methods weigh the inputs of linear layers, and this is of kind {target.kind!r}: expected a scheme without "
                f"'+{method}' for it, got {target.scheme.text!r}"
            )


def encode_sequentially(
    model: nn.Module,
    targets: Sequence[Target],
    windows: CalibrationWindows,
    *,
    report: CalibrationReport | None = None,
    known: Known = lambda name: None,
    room: Room | None = None,
    arithmetic: Arithmetic = "float32",
    threads: int = 0,
    spend: bool = False,
) -> Iterator[tuple[Target, QuantizedTensor]]:
    """Encode `targets` of `model`, in the order of its layers; the model's weights become the decoded ones on the way.

    Args:
        model: a transformers model with one list of layers that runs on tokens, in main memory.
        targets: what `find_targets` found in it.
        windows: tokens to run.
        report: takes up what was reached.
        known: name → what an earlier run encoded it to, or None; it is yielded as it is.
        room: where Hessians are gathered; None for main memory.
        arithmetic: in which the model runs.
        threads: threads of the native encoder; the result does not depend on it.
        spend: weights of a layer are emptied once it has been run; what is no target stays.

    Raises:
        SchemeError: a method where there are no inputs.
        ModelError: a model that cannot be walked through layer by layer, or token ids beyond its vocabulary.
        NumericsError: NaN or Inf among weights or inputs; names the weight.
    """
    check_methods(targets)
    _check_vocabulary(model, windows)
    folds = find_folds(model) if any("awq" in target.scheme.methods for target in targets) else []
    work = _Sequence(model, known, report or CalibrationReport.of(windows), threads, room)
    with LayerWalk(model, torch.from_numpy(windows.ids), arithmetic) as walk:
        layers = [[target for target in targets if target.name.startswith(f"{walk.name}.{index}.")] for index in range(len(walk.layers))]
        inside = {target.name for layer in layers for target in layer}
        outside = [target for target in targets if target.name not in inside]
        last = [target for target in outside if needs_inputs(target.scheme.methods)]
        yield from work.encode([target for target in outside if not needs_inputs(target.scheme.methods)], Observation())
        walk.start()
        for index, layer in enumerate(layers):
            walk.open(index)
            work.scale(layer, folds, lambda: walk.run(index, keep=False))  # noqa: B023
            yield from work.encode(layer, work.observe(layer, lambda: walk.run(index, keep=False)))  # noqa: B023 (called at once)
            if last or index + 1 < len(layers):
                walk.run(index, keep=True)
            if spend:
                _empty(model, layer)
            walk.close(index)
        yield from work.encode(last, work.observe(last, walk.finish))


class _Sequence:
    """The weights of a model on their way into k bits."""

    def __init__(self, model: nn.Module, known: Known, report: CalibrationReport, threads: int, room: Room | None = None) -> None:
        self._model, self._known, self._report, self._threads = model, known, report, threads
        self._room = room or Room()

    def observe(self, targets: Sequence[Target], run: Callable[[], None]) -> Observation:
        """Inputs of those of `targets` that need theirs and are not known yet."""
        wanted = [target for target in targets if needs_inputs(target.scheme.methods)]
        if all(self._known(target.name) is not None and "bias" not in target.scheme.methods for target in wanted):
            return Observation()
        with observed(self._model, wanted, self._room) as found:
            run()
        return found

    def scale(self, layer: Sequence[Target], folds: Sequence[Fold], run: Callable[[], None]) -> None:
        """Fold factors of the inputs of those of a layer's targets that are ``+awq``, by their inputs as they are."""
        wanted = {target.name: target for target in layer if "awq" in target.scheme.methods}
        if not wanted:
            return
        inside = [fold for fold in folds if set(fold.consumers) <= wanted.keys()]
        scaling = self._report.scaling
        consumers = [wanted[name] for name in dict.fromkeys(name for fold in inside for name in fold.consumers)]
        with observed(self._model, consumers, self._room) as found:
            run()
        fold_layer(self._model, inside, wanted, found, scaling, threads=self._threads)
        self._report.unscaled += [name for name in wanted if name not in scaling.alphas]

    @torch.no_grad()
    def _correct(self, target: Target, quantized: QuantizedTensor, inputs: Observation) -> None:
        """Add the mean error of a layer's outputs to its bias; the model still has its original weight."""
        bias = None if target.kind == "experts" else self._model.get_submodule(target.name)._parameters.get("bias")
        if bias is None:
            self._report.uncorrected.append(target.name)
            return
        parameter = self._model.get_parameter(target.parameter)
        weight = (parameter.transpose(-1, -2) if target.transposed else parameter).reshape(target.shape).float()
        bias.add_((weight - torch.from_numpy(quantized.dequantize())) @ torch.from_numpy(inputs.of(target)[0].mean))
        self._report.corrected.append(target.name)

    def encode(self, targets: Sequence[Target], inputs: Observation) -> Iterator[tuple[Target, QuantizedTensor]]:
        """Each of `targets` in k bits; the model then holds its decoded values."""
        for target in targets:
            quantized = self._known(target.name)
            if quantized is None:
                quantized = encode_target(self._model, target, self._encoder(target, inputs))
            if "bias" in target.scheme.methods:
                self._correct(target, quantized, inputs)
            _place(self._model, target, quantized)
            give_back_freed()
            yield target, quantized

    def _encoder(self, target: Target, inputs: Observation) -> Callable[[NDArray[np.float32], Scheme, str], QuantizedTensor]:
        if not needs_inputs(target.scheme.methods):
            return lambda weight, scheme, name: encode(weight, scheme, name=name, threads=self._threads)
        moments = inputs.of(target)
        self._note(target, moments)
        if "gptq" in target.scheme.methods:
            hessian = inputs.hessian(target)
            return lambda weight, scheme, name: encode_gptq(weight, scheme, hessian, name=name, threads=self._threads)
        if "imp" not in target.scheme.methods:  # by its weights alone, as they are scaled or before their bias is corrected
            bare = tuple(method for method in target.scheme.methods if method not in NEEDS_INPUTS)
            return lambda weight, scheme, name: replace(
                encode(weight, replace(scheme, methods=bare), name=name, threads=self._threads), scheme=scheme
            )
        importance = _arranged(target, [one.importance for one in moments])
        if not np.isfinite(importance).all():
            raise NumericsError(f"{target.name}: expected finite inputs from the calibration text, got NaN or Inf")
        spread = importance[:, None] if target.kind == "experts" else importance
        return lambda weight, scheme, name: encode(weight, scheme, name=name, importance=spread, threads=self._threads)

    def _note(self, target: Target, moments: list[InputMoments]) -> None:
        if target.kind == "experts":
            self._report.experts[target.name] = [one.rows for one in moments]
        for index, one in enumerate(moments):
            if one.rows == 0 or one.is_zero:
                self._report.unseen.append(f"{target.name}[{index}]" if target.kind == "experts" else target.name)


def _arranged(target: Target, arrays: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.stack(arrays) if target.kind == "experts" else arrays[0]


@torch.no_grad()
def _place(model: nn.Module, target: Target, quantized: QuantizedTensor) -> None:
    parameter = model.get_parameter(target.parameter)
    values = torch.from_numpy(quantized.dequantize())
    if target.transposed:
        values = values.transpose(-1, -2)
    parameter.copy_(values.reshape(parameter.shape))


def _empty(model: nn.Module, targets: Sequence[Target]) -> None:
    for target in targets:
        parameter = model.get_parameter(target.parameter)
        parameter.data = parameter.data.new_empty(0)


def _check_vocabulary(model: nn.Module, windows: CalibrationWindows) -> None:
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if isinstance(size, int) and int(windows.ids.max()) >= size:
        raise ModelError(f"expected token ids below the model's vocabulary of {size}, got {int(windows.ids.max())}: another tokenizer's?")


def calibration_bytes(model: nn.Module, targets: Sequence[Target], windows: CalibrationWindows, limit_bytes: int | None = None) -> int:
    """Memory that `encode_sequentially` takes beside the model as it is: an upper bound, 0 where the model cannot be walked through.

    Hidden states, embeddings, head and one layer in float32, its Hessians (layers that share their input really share one; at most
    `limit_bytes`), and the larger of GPTQ's work on one weight and of what lies between the products of a batch.
    """
    try:
        name, layers = find_layers(model)
    except KbitError:
        return 0
    width = getattr(getattr(model, "config", None), "hidden_size", 0) or 0
    moments, work, widest = [0], [0], int(width)
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    outside = sum(4 * parameter.numel() for parameter in model.parameters() if id(parameter) not in inside)
    for index, layer in enumerate(layers):
        weighed = [target for target in targets if target.name.startswith(f"{name}.{index}.") and needs_inputs(target.scheme.methods)]
        hessians = sum(_moments_bytes(target) for target in weighed)
        widest = max([widest, *(max(target.shape[-2:]) for target in weighed)])
        moments.append(
            (hessians if limit_bytes is None else min(hessians, limit_bytes))
            + sum(4 * parameter.numel() for parameter in layer.parameters())
        )
        work += [
            24 * target.shape[-2] * target.shape[-1] + 24 * target.shape[-1] ** 2 for target in weighed if "gptq" in target.scheme.methods
        ]
    between = _BETWEEN * 4 * min(windows.tokens, BATCH_TOKENS) * widest
    return 4 * windows.tokens * int(width) + outside + max(moments) + max(*work, between)


def _moments_bytes(target: Target) -> int:
    cols, matrices = target.shape[-1], target.shape[0] if target.kind == "experts" else 1
    return 4 * matrices * (cols**2 if needs_hessian(target) else cols)


def encode_alone(model: nn.Module, target: Target, inputs: Observation, *, threads: int = 0) -> QuantizedTensor:
    """The weight of `target` in k bits by what `inputs` has of it; the model keeps its own values.

    Raises:
        NumericsError: NaN or Inf among weights or inputs; names the weight.
    """
    work = _Sequence(model, lambda _: None, CalibrationReport(0, 0, 0, ""), threads)
    return encode_target(model, target, work._encoder(target, inputs))
