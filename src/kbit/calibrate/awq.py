"""Activation-aware scaling: inputs that matter get more of their weights' precision, at no cost when the model runs.

Lin, Tang, Tang, Yang, Xiao, Dang, Gan, Han: "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration"
(2023). For layers that share their input, W x = (W diag(s)) (x / s) with s = rms(x)^α, by channel, up to a factor. α is searched in
0, 0.1, … 1: the one by which the layers, encoded to the nearest level, lose the least output error tr(e H eᵀ); 0 changes nothing. The
1 / s goes into the module before them (`kbit.calibrate.folds`).

A norm's vectors are stored in the checkpoint's dtype, so s is taken to be what the rounded vectors say it is: the model computes what it
did before. All factors of a layer are found from its inputs while its weights are the original ones, before any of them is encoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.calibrate.folds import Fold
from kbit.calibrate.observe import Observation
from kbit.encoders.nearest import encode
from kbit.nn.targets import Target

__all__ = ["ALPHAS", "Scaling", "fold_layer"]

Float32 = NDArray[np.float32]

ALPHAS = tuple(index / 10 for index in range(11))
#: least factor, before they are put about 1
_LEAST = 1e-4


class Scaling:
    """What was folded.

    Attributes:
        alphas: layer → α of its inputs; layers that nothing before them takes a factor out of are missing.
        changed: names of parameters with other values that are not among the weights to encode.
    """

    def __init__(self) -> None:
        self.alphas: dict[str, float] = {}
        self.changed: list[str] = []


def fold_layer(
    model: nn.Module, folds: Sequence[Fold], targets: Mapping[str, Target], inputs: Observation, scaling: Scaling, *, threads: int = 0
) -> None:
    """Scale the weights of one layer's `targets` (float32 in `model`) by their `inputs`, where a fold of theirs takes the inverse.

    A fold is left out where one of its consumers, or the matrix that would take the inverse, is not encoded with ``+awq``.
    """
    for fold in folds:
        members = fold.consumers if fold.is_norm else (fold.source, *fold.consumers)
        if not all(name in targets and "awq" in targets[name].scheme.methods for name in members):
            continue
        consumers = [targets[name] for name in fold.consumers]
        moments = inputs.of(consumers[0])[0]
        if moments.rows == 0 or moments.is_zero:
            continue
        alpha, scale = _search(model, consumers, moments.hessian, threads)
        scaling.alphas |= dict.fromkeys(fold.consumers, alpha)
        if alpha:
            _apply(model, fold, consumers, torch.from_numpy(scale), scaling)


def _search(model: nn.Module, consumers: Sequence[Target], hessian: Float32, threads: int) -> tuple[float, Float32]:
    """(α, factors of the inputs) with the least error."""
    root_mean_square = np.sqrt(np.diagonal(hessian).astype(np.float64))
    tried = [_factors(root_mean_square, alpha) for alpha in ALPHAS]
    losses = [sum(_loss(model, target, hessian, scale, threads) for target in consumers) for scale in tried]
    best = int(np.argmin(losses))
    return ALPHAS[best], tried[best]


def _factors(size: NDArray[np.float64], alpha: float) -> Float32:
    powers = np.maximum(size / size.max(), _LEAST) ** alpha
    return np.asarray(powers / np.sqrt(powers.max() * powers.min()), np.float32)


def _loss(model: nn.Module, target: Target, hessian: Float32, scale: Float32, threads: int) -> float:
    weight = model.get_parameter(target.parameter).detach()
    array = (weight.T if target.transposed else weight).float().numpy()
    scheme = replace(target.scheme, methods=(), parts=())  # parts are found once, for the scale that is taken
    importance = np.diagonal(hessian) / np.square(scale) if "imp" in target.scheme.methods else None
    encoded = encode(np.ascontiguousarray(array * scale), scheme, name=target.name, importance=importance, threads=threads)
    error = array - encoded.dequantize() / scale
    return float(((error @ hessian) * error).sum(dtype=np.float64))


@torch.no_grad()
def _apply(model: nn.Module, fold: Fold, consumers: Sequence[Target], scale: torch.Tensor, scaling: Scaling) -> None:
    source = model.get_submodule(fold.source)
    if fold.is_norm:
        scale = _divide_norm(source.get_parameter("weight"), scale, consumers[0].dtype, fold.plus_one)
        scaling.changed.append(f"{fold.source}.weight")
    else:
        weight = source.get_parameter("weight")
        weight.div_(scale if type(source).__name__ == "Conv1D" else scale[:, None])
    bias = getattr(source, "bias", None)
    if isinstance(bias, torch.Tensor):
        bias.div_(scale)
        scaling.changed.append(f"{fold.source}.bias")
    for target in consumers:
        model.get_parameter(target.parameter).mul_(scale[:, None] if target.transposed else scale)


def _divide_norm(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, plus_one: bool) -> torch.Tensor:
    """Divide a norm's weight, as stored in `dtype`; the factors that this really takes out of it."""
    offset = 1.0 if plus_one else 0.0
    before = weight.float() + offset
    stored = (before / scale - offset).to(dtype).float()
    after = stored + offset
    usable = (after != 0) & torch.isfinite(after) & (before != 0)
    weight.copy_(torch.where(usable, stored, weight))
    return torch.where(usable, before / after, torch.ones_like(scale))
