"""`swap`: replaces the layers of any torch module by packed ones, in place.

One weight at a time: it is read, encoded, and the ordinary layer is let go before the next one, so memory never holds a second model.
With `encoder=None` the packed layers stay empty (on the device of the weights they replace): the skeleton a loader fills.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.core.errors import ModelError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.kernels import Mode
from kbit.nn.conv import KbitConv1D, KbitConv2d
from kbit.nn.embedding import KbitEmbedding
from kbit.nn.experts import KbitExperts, KbitStack
from kbit.nn.linear import KbitLinear
from kbit.nn.packed import PackedModule, share_packed
from kbit.nn.targets import Kept, SchemeChoice, Target, find_targets
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["Encoder", "SwapReport", "encode_target", "packed_modules", "set_mode", "swap", "swap_targets", "unswap"]

Encoder = Callable[[NDArray[np.float32], Scheme, str], QuantizedTensor]


@dataclass(frozen=True, slots=True)
class SwapReport:
    """What `swap` did: the weights it packed, and the layers it left with the reason of each."""

    packed: tuple[Target, ...]
    kept: tuple[Kept, ...]


def nearest(weight: NDArray[np.float32], scheme: Scheme, name: str) -> QuantizedTensor:
    """The plain encoder: each weight takes the nearest level."""
    return encode(weight, scheme, name=name)


def swap(
    model: nn.Module,
    plan: Plan | Scheme | str | SchemeChoice,
    *,
    encoder: Encoder | None = nearest,
    mode: Mode = "fast",
    done: Callable[[Target], None] | None = None,
) -> SwapReport:
    """Replace every layer of `model` that `plan` gives a k-bit scheme. Ties stay ties.

    Args:
        model: any module; changed in place.
        plan: plan, scheme or text; or a function (name, kind) → scheme.
        encoder: (weight float32, scheme, name) → QuantizedTensor; None makes empty layers for a loader to fill.
        mode: arithmetic of the packed layers.
        done: called after each weight.

    Raises:
        NumericsError: a weight is NaN or infinite; the message names tensor and index.
        ModelError: the model is on the meta device and there is an encoder.
    """
    choose = plan if callable(plan) else Plan.of(plan).scheme_for
    targets, kept = find_targets(model, choose)
    swap_targets(model, targets, encoder=encoder, mode=mode, done=done)
    return SwapReport(tuple(targets), tuple(kept))


def swap_targets(
    model: nn.Module,
    targets: Iterable[Target],
    *,
    encoder: Encoder | None = nearest,
    mode: Mode = "fast",
    done: Callable[[Target], None] | None = None,
) -> None:
    """Replace the layers of `targets`, which `find_targets` found in `model`."""
    aliases = _aliases(model)
    for target in targets:
        quantized = None if encoder is None else encode_target(model, target, encoder)
        first: PackedModule | None = None
        for place in target.places:
            packed = _pack_place(model, target, place, quantized if first is None else None, aliases)
            packed.mode = mode
            if first is None:
                first = packed
            else:
                share_packed(first, packed)
        if done is not None:
            done(target)


def unswap(model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Replace every packed layer of `model` by an ordinary one with the decoded weight, in place. Ties stay ties."""
    aliases = _aliases(model)
    decoded: dict[int, nn.Parameter] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, KbitLinear | KbitEmbedding | KbitConv2d | KbitConv1D | KbitExperts):
            source = None if isinstance(module, KbitExperts) else id(module._parameters["weight"])
            layer = _ordinary_conv1d(module, dtype) if isinstance(module, KbitConv1D) else module.dequantize(dtype)
            if source is not None:
                layer.weight = decoded.setdefault(source, layer.get_parameter("weight"))
            _replace(model, name, layer.train(module.training), aliases)


def packed_modules(model: nn.Module) -> dict[str, PackedModule]:
    """Name → packed module, each under the first name it has."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedModule)}


def set_mode(model: nn.Module, mode: Mode) -> None:
    """Set the arithmetic of every packed layer."""
    for module in packed_modules(model).values():
        module.mode = mode


def encode_target(model: nn.Module, target: Target, encoder: Encoder) -> QuantizedTensor:
    """The weight of `target` in `model`, encoded.

    Raises:
        ModelError: it is on the meta device.
    """
    weight = model.get_parameter(target.parameter).detach()
    if weight.is_meta:
        raise ModelError(f"{target.parameter} is on the meta device: load the model before encoding it")
    if target.transposed:
        weight = weight.transpose(-1, -2)
    array = weight.to("cpu", torch.float32).reshape(target.shape).contiguous().numpy()
    return encoder(array, target.scheme, target.name)


def _pack_place(
    model: nn.Module, target: Target, place: str, quantized: QuantizedTensor | None, aliases: dict[int, list[tuple[nn.Module, str]]]
) -> PackedModule:
    """Put a packed layer at `place`: with `quantized`, or empty."""
    if target.kind == "experts":
        owner, _, projection = place.rpartition(".")
        layer = model.get_submodule(owner)
        device = _device(model, place, quantized)
        count, rows, cols = target.shape
        stack = KbitStack(count, rows, cols, target.scheme, device=device, dtype=target.dtype)
        if isinstance(layer, KbitExperts):
            del layer._parameters[projection]
            layer.add_module(projection, stack)
        else:
            _replace(model, owner, KbitExperts(layer, {projection: stack}).train(layer.training), aliases)
        packed: PackedModule = stack
    else:
        layer = model.get_submodule(place)
        packed = _empty_like(layer, target.scheme, _device(model, f"{place}.weight", quantized)).train(layer.training)
        _replace(model, place, packed, aliases)
    if quantized is not None:
        packed.load_quantized(quantized)
    return packed


def _device(model: nn.Module, parameter: str, quantized: QuantizedTensor | None) -> Any:
    """Empty parts stand where the weight stood; parts about to be loaded need no memory before."""
    return model.get_parameter(parameter).device if quantized is None else "meta"


def _empty_like(layer: nn.Module, scheme: Scheme, device: Any) -> PackedModule:
    """A packed layer of the same geometry, with the same bias object and an empty weight."""
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    packed: KbitLinear | KbitEmbedding | KbitConv2d | KbitConv1D
    if isinstance(layer, nn.Embedding):
        # some classes keep the constant as a buffer, and beside it as a number, which is there on the meta device too
        scale: Any = getattr(layer, "scalar_embed_scale", getattr(layer, "embed_scale", None))
        multiplier = None if scale is None else float(scale)
        table = KbitEmbedding(layer.num_embeddings, layer.embedding_dim, scheme, layer.padding_idx, multiplier, device, weight.dtype)
        table.ordinary_class = nn.Embedding if multiplier is None else type(layer)
        return table
    if isinstance(layer, nn.Linear):
        packed = KbitLinear(layer.in_features, layer.out_features, scheme, False, device, weight.dtype)
    elif isinstance(layer, nn.Conv2d):
        packed = KbitConv2d.like(layer, scheme, device, weight.dtype)
    else:
        packed = KbitConv1D(weight.shape[1], weight.shape[0], scheme, device, weight.dtype)
    packed.bias = layer.bias  # type: ignore[assignment]
    return packed


def _ordinary_conv1d(packed: KbitConv1D, dtype: torch.dtype) -> nn.Module:
    from transformers.pytorch_utils import Conv1D  # only a model of transformers has this layer

    layer: Any = Conv1D(1, 1)
    layer.nf, layer.nx = packed.nf, packed.nx
    layer.weight = nn.Parameter(packed.dequantize_weight(dtype).t().contiguous(), requires_grad=False)
    layer.bias = nn.Parameter(packed.bias.detach().to(dtype), requires_grad=False)
    return cast(nn.Module, layer)


def _aliases(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Module → every (parent, name) it hangs from: one layer may be used in several places."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                found.setdefault(id(child), []).append((parent, name))
    return found


def _replace(model: nn.Module, name: str, new: nn.Module, aliases: dict[int, list[tuple[nn.Module, str]]]) -> None:
    old = model.get_submodule(name)
    for parent, child in aliases.get(id(old), []):
        holder = parent if parent._modules.get(child) is old else None
        if holder is not None:
            holder._modules[child] = new
            if isinstance(holder, nn.TransformerEncoderLayer):
                holder.activation_relu_or_gelu = 0  # its fused path would read the weights directly
    current = model.get_submodule(name)
    if current is not new:  # the parent itself was replaced meanwhile
        parent_name, _, child = name.rpartition(".")
        model.get_submodule(parent_name)._modules[child] = new
    aliases[id(new)] = aliases.pop(id(old), [])
