"""Bias correction: the mean output of an encoded layer is that of the original one; layers without a bias are noted."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from kbit.calibrate import CalibrationWindows
from kbit.calibrate.sequential import CalibrationReport, encode_sequentially
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.nn.targets import find_targets

Make = Callable[[str], nn.Module]


@pytest.mark.parametrize("text", ["int2:g16+bias", "int2:g16+imp+gptq+bias"])
@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_mean_outputs_stay(kind: str, text: str, make_model: Make, ids: torch.Tensor) -> None:
    original, model = make_model(kind), make_model(kind)
    # OPT's projections lie around its layers: they are encoded at last, and change what the layers get
    targets, _ = find_targets(model, Plan(Scheme.parse(text), skip=("project_",)).scheme_for)
    report = CalibrationReport.of(CalibrationWindows(ids.numpy()))
    found = encode_sequentially(model, targets, CalibrationWindows(ids.numpy()), report=report)
    encoded = {target.name: tensor for target, tensor in found}
    linear = [target.name for target in targets if target.kind != "head"]
    assert set(report.corrected) == set(linear)
    seen: dict[str, np.ndarray] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].detach().numpy()))
        for name in linear
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    first = [name for name in report.corrected if name.rpartition(".")[2] in ("c_attn", "q_proj", "k_proj", "v_proj")]
    assert len(first) == {"gpt2": 2, "opt": 6}[kind]
    for name in first:  # the others of a layer saw what comes before them in it as it was
        before, after = original.get_submodule(name), model.get_submodule(name)
        mean = seen[name].reshape(-1, seen[name].shape[-1]).mean(0)
        weight = before.weight.detach().numpy()
        weight = weight.T if hasattr(before, "nf") else weight
        expected = weight @ mean + before.bias.detach().numpy()
        corrected = encoded[name].dequantize() @ mean + after.bias.detach().numpy()
        uncorrected = encoded[name].dequantize() @ mean + before.bias.detach().numpy()
        np.testing.assert_allclose(corrected, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max(), err_msg=name)
        assert np.abs(uncorrected - expected).max() > 20 * np.abs(corrected - expected).max()
    assert report.changed == [f"{name}.bias" for name in report.corrected]


@pytest.mark.parametrize("kind", ["llama", "gpt_oss"])
def test_layers_without_one_are_noted(kind: str, make_model: Make, ids: torch.Tensor) -> None:
    model = make_model(kind)
    report = CalibrationReport.of(CalibrationWindows(ids.numpy()))
    targets, _ = find_targets(model, Plan.of("int3:g16+bias").scheme_for)
    list(encode_sequentially(model, targets, CalibrationWindows(ids.numpy()), report=report))
    assert any("bias was not applied" in note for note in report.notes())
    assert not any("experts" in name for name in report.corrected)
