"""Factors on inputs: the model computes what it did, the loss falls, and what cannot take them is left alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from kbit.calibrate import CalibrationWindows
from kbit.calibrate.awq import Scaling, fold_layer
from kbit.calibrate.folds import Fold, find_folds
from kbit.calibrate.observe import observed
from kbit.calibrate.sequential import CalibrationReport, encode_sequentially
from kbit.core.plan import Plan
from kbit.encoders import encode
from kbit.nn.targets import find_targets

Make = Callable[[str], nn.Module]
#: folds of a layer: norms, and rows of matrices
COUNTS = {"llama": (2, 2), "gemma3": (2, 2), "gpt2": (2, 0), "neox": (2, 0), "opt": (2, 1), "bloom": (2, 0), "mixtral": (1, 1)}


def uneven(model: nn.Module) -> nn.Module:
    """Norms and biases of other values than ones and zeros, and inputs of very different sizes."""
    draw = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.rand(parameter.shape, generator=draw).exp() - 1)
    return model


@pytest.mark.parametrize("kind", COUNTS)
def test_the_model_computes_what_it_did(kind: str, make_model: Make, ids: torch.Tensor) -> None:
    model = uneven(make_model(kind))
    with torch.no_grad():
        before = model(input_ids=ids).logits
    folds = find_folds(model)
    assert (sum(fold.is_norm for fold in folds), sum(not fold.is_norm for fold in folds)) == tuple(2 * one for one in COUNTS[kind])
    targets = {target.name: target for target in find_targets(model, Plan.of("int2:g16+awq").scheme_for)[0]}
    scaling = Scaling()
    with observed(model, [target for target in targets.values() if target.kind not in ("embedding", "head")]) as found, torch.no_grad():
        model(input_ids=ids)
    fold_layer(model, folds, targets, found, scaling)
    assert any(scaling.alphas.values())
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=2e-3, atol=2e-3)


def test_alpha_is_the_best_of_all_tried(make_model: Make, ids: torch.Tensor) -> None:
    model = uneven(make_model("llama"))
    scale = torch.linspace(-2, 2, 64).exp()
    model.model.layers[0].input_layernorm.weight.data.mul_(scale)
    fold = next(fold for fold in find_folds(model) if fold.source.endswith("0.input_layernorm"))
    targets = {target.name: target for target in find_targets(model, Plan.of("int3:g16+awq").scheme_for)[0]}
    with observed(model, [targets[name] for name in fold.consumers]) as found, torch.no_grad():
        model(input_ids=ids)
    hessian = found.hessian(targets[fold.consumers[0]]).astype(np.float64)
    weights = [model.get_submodule(name).weight.detach().numpy().copy() for name in fold.consumers]
    losses = []
    for alpha in [index / 10 for index in range(11)]:
        factor = np.sqrt(np.diagonal(hessian)) ** alpha
        factor = (factor / np.sqrt(factor.max() * factor.min())).astype(np.float32)
        errors = [one - encode(one * factor, Plan.of("int3:g16").default).dequantize() / factor for one in weights]
        losses.append(sum(float(np.einsum("ri,ij,rj->", error, hessian, error)) for error in errors))
    scaling = Scaling()
    fold_layer(model, [fold], targets, found, scaling)
    chosen = scaling.alphas[fold.consumers[0]]
    assert losses[round(chosen * 10)] <= min(losses) * 1.001
    assert min(losses) < 0.95 * losses[0]
    assert scaling.changed == ["model.layers.0.input_layernorm.weight"]


def test_halves_of_norms_are_taken_at_their_word(make_model: Make, ids: torch.Tensor) -> None:
    model = uneven(make_model("gemma3")).to(torch.bfloat16)
    targets, _ = find_targets(model, Plan.of("int8:g16+awq").scheme_for)
    targets = [target for target in targets if target.kind == "linear"]
    report = CalibrationReport.of(CalibrationWindows(ids.numpy()))
    with torch.no_grad():
        before = model.float()(input_ids=ids).logits
    model.to(torch.bfloat16)
    for _ in encode_sequentially(model, targets, CalibrationWindows(ids.numpy()), report=report):
        pass
    assert any(report.scaling.alphas.values())
    with torch.no_grad():
        after = model.float()(input_ids=ids).logits
    assert float((after - before).std()) < 0.05 * float(before.std())


def test_what_nothing_can_take_is_noted(make_model: Make, ids: torch.Tensor) -> None:
    model = make_model("gpt2")
    plan = Plan(Plan.of("int4:g16+awq+imp").default, skip=(r"h[.]1[.]attn[.]c_attn",))
    report = CalibrationReport.of(CalibrationWindows(ids.numpy()))
    found = dict(encode_sequentially(model, find_targets(model, plan.scheme_for)[0], CalibrationWindows(ids.numpy()), report=report))
    assert len(found) == 7
    assert set(report.scaling.alphas) == {f"transformer.h.{name}" for name in ("0.attn.c_attn", "0.mlp.c_fc", "1.mlp.c_fc")}
    assert any("awq was not applied to 4 weights" in note for note in report.notes())
    assert not find_folds(nn.Sequential(nn.Linear(4, 4)))
    assert Fold("a", ("b",), True) not in find_folds(model)
