"""Quantize on load: weights are encoded one by one as `from_pretrained` reads them, so the 16-bit model never exists as a whole.

transformers asks `param_needs_quantization` for each parameter, materializes it (after its own renamings and fusions, so fused experts
arrive whole) and hands it to the conversion operation `EncodeOnLoad`, which encodes it, puts the packed layer into the skeleton, and
answers with nothing to set. Names, kinds, ties and the encoder are those of `kbit.encode`, hence the same bytes.

Two things transformers would do are prevented: casting a weight to the model's dtype before it is encoded (`keep_precision`), and turning
a typed error into a `RuntimeError` with a printed traceback (the first error is kept, and raised when loading ends).
"""

import re
from hashlib import sha256
from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps

from kbit.core.errors import KbitError, ModelError, ShapeError
from kbit.core.methods import refuse_folded, refuse_uncalibrated
from kbit.core.plan import Plan
from kbit.encoders.nearest import encode
from kbit.hf.ties import as_tied, packed_layer, take_ties, weight_names
from kbit.kernels import Mode
from kbit.nn.packed import share_packed
from kbit.nn.swap import swap_targets
from kbit.nn.targets import Target, find_targets

__all__ = ["EncodeOnLoad", "Encoding"]


class Encoding:
    """What is to be encoded in one call of `from_pretrained`, and what has been.

    Attributes:
        targets: weights to pack.
        ties: pairs (target, source) taken over from transformers.
    """

    def __init__(self, model: Any, plan: Plan, mode: Mode) -> None:
        with as_tied(model):
            self.targets, _ = find_targets(model, plan.scheme_for)
        for target in self.targets:  # loading runs no text
            refuse_uncalibrated(target.scheme.methods, target.name)
            refuse_folded(target.scheme.methods, target.name)
        self.mode = mode
        self._target_of = {name: target for target in self.targets for name in weight_names(target)}
        self._shapes = {name: model.get_parameter(name).shape for name in self._target_of}
        self._done: set[str] = set()
        self._digests: dict[str, bytes] = {}
        self._error: KbitError | None = None
        self.ties = take_ties(model, self._target_of)
        self._precision = model._keep_in_fp32_modules_strict
        model._keep_in_fp32_modules_strict = {*(self._precision or ()), *(f"^{re.escape(name)}$" for name in self._target_of)}

    def needs(self, parameter: str) -> bool:
        """True for a parameter that will be encoded."""
        return parameter in self._target_of

    def take(self, model: nn.Module, parameter: str, tensor: torch.Tensor, missing: set[str]) -> None:
        """Encode `tensor`, the value of `parameter`, and put the packed layer into `model`; keeps the first error."""
        target = self._target_of[parameter]
        missing.difference_update(weight_names(target))
        if self._error is None:
            try:
                self._encode(model, target, parameter, tensor)
            except KbitError as error:
                self._error = error

    def finish(self, model: Any) -> None:
        """After loading: raise what went wrong, and give transformers its ties and precision back.

        Raises:
            KbitError: the first error of an encoder.
            ModelError: a weight to be encoded was not in the checkpoint.
        """
        if self._error is not None:
            raise self._error
        model._keep_in_fp32_modules_strict = self._precision
        for target in self.targets:
            if target.name not in self._done:
                self._encode_late(model, target)
        model.all_tied_weights_keys.update(self.ties)

    def _encode(self, model: nn.Module, target: Target, parameter: str, tensor: torch.Tensor) -> None:
        if tensor.shape != self._shapes[parameter]:
            raise ShapeError(
                f"{parameter}: expected shape {tuple(self._shapes[parameter])} as the configuration says, got {tuple(tensor.shape)}"
            )
        if target.name in self._done:  # a checkpoint may hold a tied weight under each of its names; it must be one weight then
            if _digest(tensor) != self._digests[target.name]:
                raise ModelError(
                    f"{parameter} is tied to {target.parameter} by the configuration, and the checkpoint holds two different weights: "
                    f"set tie_word_embeddings to false in its config.json"
                )
            return
        if len(target.places) > 1:
            self._digests[target.name] = _digest(tensor)
        weight = tensor.transpose(-1, -2) if target.transposed else tensor
        array = weight.to("cpu", torch.float32).reshape(target.shape).contiguous().numpy()
        quantized = encode(array, target.scheme, name=target.name)
        swap_targets(model, [target], encoder=None, mode=self.mode)  # into the skeleton, whose dtype is the one to compute for
        first, *others = (packed_layer(model, place) for place in target.places)
        first.load_quantized(quantized)
        share_packed(first, *others)
        for part in first.part_names:  # transformers initializes whatever does not carry this mark
            first._parameters[part]._is_hf_initialized = True  # type: ignore[union-attr]
        self._done.add(target.name)

    def _encode_late(self, model: nn.Module, target: Target) -> None:
        """A weight that came out of a conversion of transformers together with others is in the model, unencoded."""
        parameter = model.get_parameter(target.parameter)
        if parameter.is_meta or not getattr(parameter, "_is_hf_initialized", False):
            raise ModelError(f"{target.parameter} is to be encoded as {target.scheme.text}, and the checkpoint does not hold it")
        self._encode(model, target, target.parameter, parameter.detach())


def _digest(tensor: torch.Tensor) -> bytes:
    return sha256(tensor.contiguous().view(torch.uint8).numpy().data).digest()


class EncodeOnLoad(ConversionOps):  # type: ignore[misc]
    """Conversion operation of transformers that hands weights to an `Encoding`."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding

    def convert(self, input_dict: dict[str, Any], *, model: Any, missing_keys: set[str] | None = None, **_: Any) -> dict[str, torch.Tensor]:
        """Parameters by name, as transformers made them → those that are not to be encoded."""
        missing = set() if missing_keys is None else missing_keys
        rest: dict[str, torch.Tensor] = {}
        for name, value in input_dict.items():
            tensor = value[0] if isinstance(value, list) else value
            if self.encoding.needs(name):
                self.encoding.take(model, name, tensor, missing)
            else:
                rest[name] = tensor.to(model.get_parameter_or_buffer(name).dtype)
        return rest
