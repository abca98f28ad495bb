"""Encodes a model layer by layer, each by its inputs as they are once all layers before it are encoded.

    embeddings and other modules before the layers     encoded first, by the nearest level
    layer 0, 1, …    run it on the hidden states and gather its inputs → encode its weights → put their decoded values in → run it again
    the head         by its inputs from the encoded layers

Weights stay those of the model until their layer's inputs are gathered; after that the model holds decoded values, in float32 arithmetic.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.calibrate.moments import InputMoments
from kbit.calibrate.observe import Observation, observed
from kbit.calibrate.text import CalibrationWindows
from kbit.calibrate.walk import LayerWalk, find_layers
from kbit.core.errors import KbitError, ModelError, NumericsError, SchemeError
from kbit.core.methods import needs_inputs
from kbit.core.scheme import Scheme
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.nearest import encode
from kbit.nn.swap import encode_target
from kbit.nn.targets import Target
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["CalibrationReport", "calibration_bytes", "check_methods", "encode_sequentially"]

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
    """

    tokens: int
    windows: int
    seed: int
    digest: str
    experts: dict[str, list[int]] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, windows: CalibrationWindows) -> "CalibrationReport":
        """Nothing reached yet."""
        return cls(windows.tokens, len(windows.ids), windows.seed, windows.digest)

    def notes(self) -> tuple[str, ...]:
        """What a user should know: weights that the text did not reach."""
        if not self.unseen:
            return ()
        return (
            f"the calibration text never reached {len(self.unseen)} weights, encoded as if all inputs were alike, first {self.unseen[0]}",
        )

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "tokens": self.tokens,
            "windows": self.windows,
            "seed": self.seed,
            "digest": self.digest,
            "experts": {name: list(rows) for name, rows in self.experts.items()},
            "unseen": list(self.unseen),
        }


def check_methods(targets: Sequence[Target]) -> None:
    """Refuse methods that need inputs where a weight has none.

    Raises:
        SchemeError: an embedding or a convolution with a method; names it.
    """
    for target in targets:
        if needs_inputs(target.scheme.methods) and target.kind in ("embedding", "conv2d"):
            raise SchemeError(
                f"{target.name}: methods weigh the inputs of linear layers, and this is of kind {target.kind!r}: expected a scheme without "
                f"{''.join(f'+{method}' for method in target.scheme.methods)!r} for it, got {target.scheme.text!r}"
            )


def encode_sequentially(
    model: nn.Module,
    targets: Sequence[Target],
    windows: CalibrationWindows,
    *,
    report: CalibrationReport | None = None,
    known: Known = lambda name: None,
    threads: int = 0,
) -> Iterator[tuple[Target, QuantizedTensor]]:
    """Encode `targets` of `model`, in the order of its layers; the model's weights become the decoded ones on the way.

    Args:
        model: a transformers model with one list of layers that runs on tokens, in main memory.
        targets: what `find_targets` found in it.
        windows: tokens to run.
        report: takes up what was reached.
        known: name → what an earlier run encoded it to, or None; it is yielded as it is.
        threads: threads of the native encoder; the result does not depend on it.

    Raises:
        SchemeError: a method where there are no inputs.
        ModelError: a model that cannot be walked through layer by layer, or token ids beyond its vocabulary.
        NumericsError: NaN or Inf among weights or inputs; names the weight.
    """
    check_methods(targets)
    _check_vocabulary(model, windows)
    work = _Sequence(model, known, report or CalibrationReport.of(windows), threads)
    with LayerWalk(model, torch.from_numpy(windows.ids)) as walk:
        layers = [[target for target in targets if target.name.startswith(f"{walk.name}.{index}.")] for index in range(len(walk.layers))]
        inside = {target.name for layer in layers for target in layer}
        outside = [target for target in targets if target.name not in inside]
        last = [target for target in outside if needs_inputs(target.scheme.methods)]
        yield from work.encode([target for target in outside if not needs_inputs(target.scheme.methods)], Observation())
        walk.start()
        for index, layer in enumerate(layers):
            walk.open(index)
            yield from work.encode(layer, work.observe(layer, lambda: walk.run(index, keep=False)))  # noqa: B023 (called at once)
            if last or index + 1 < len(layers):
                walk.run(index, keep=True)
            walk.close(index)
        yield from work.encode(last, work.observe(last, walk.finish))


class _Sequence:
    """The weights of a model on their way into k bits."""

    def __init__(self, model: nn.Module, known: Known, report: CalibrationReport, threads: int) -> None:
        self._model, self._known, self._report, self._threads = model, known, report, threads

    def observe(self, targets: Sequence[Target], run: Callable[[], None]) -> Observation:
        """Inputs of those of `targets` that need theirs and are not known yet."""
        wanted = [target for target in targets if needs_inputs(target.scheme.methods)]
        if all(self._known(target.name) is not None for target in wanted):
            return Observation()
        with observed(self._model, wanted) as found:
            run()
        return found

    def encode(self, targets: Sequence[Target], inputs: Observation) -> Iterator[tuple[Target, QuantizedTensor]]:
        """Each of `targets` in k bits; the model then holds its decoded values."""
        for target in targets:
            quantized = self._known(target.name)
            if quantized is None:
                quantized = encode_target(self._model, target, self._encoder(target, inputs))
            _place(self._model, target, quantized)
            yield target, quantized

    def _encoder(self, target: Target, inputs: Observation) -> Callable[[NDArray[np.float32], Scheme, str], QuantizedTensor]:
        if not needs_inputs(target.scheme.methods):
            return lambda weight, scheme, name: encode(weight, scheme, name=name, threads=self._threads)
        moments = inputs.of(target)
        self._note(target, moments)
        if "gptq" in target.scheme.methods:
            hessian = _arranged(target, [one.hessian for one in moments])
            return lambda weight, scheme, name: encode_gptq(weight, scheme, hessian, name=name, threads=self._threads)
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


def _check_vocabulary(model: nn.Module, windows: CalibrationWindows) -> None:
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if isinstance(size, int) and int(windows.ids.max()) >= size:
        raise ModelError(f"expected token ids below the model's vocabulary of {size}, got {int(windows.ids.max())}: another tokenizer's?")


def calibration_bytes(model: nn.Module, targets: Sequence[Target], windows: CalibrationWindows) -> int:
    """Memory that `encode_sequentially` takes beside the model: an upper bound, 0 where the model cannot be walked through.

    Hidden states, one layer in float32, its Hessians (layers that share their input really share one), and GPTQ's work on one weight.
    """
    try:
        name, layers = find_layers(model)
    except KbitError:
        return 0
    width = getattr(getattr(model, "config", None), "hidden_size", 0) or 0
    moments, work = [0], [0]
    for index, layer in enumerate(layers):
        inside = [target for target in targets if target.name.startswith(f"{name}.{index}.") and needs_inputs(target.scheme.methods)]
        moments.append(sum(_moments_bytes(target) for target in inside) + sum(4 * parameter.numel() for parameter in layer.parameters()))
        work += [
            16 * target.shape[-2] * target.shape[-1] + 24 * target.shape[-1] ** 2 for target in inside if "gptq" in target.scheme.methods
        ]
    return 4 * windows.tokens * int(width) + max(moments) + max(work)


def _moments_bytes(target: Target) -> int:
    cols, matrices = target.shape[-1], target.shape[0] if target.kind == "experts" else 1
    return 4 * matrices * (cols**2 if "gptq" in target.scheme.methods else cols)
