"""Each layer is encoded by its inputs from the encoded layers before it; held against runs of the whole model."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from kbit.calibrate import CalibrationReport, CalibrationWindows, encode_sequentially
from kbit.core.errors import ModelError, NumericsError, SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.encoders.gptq import encode_gptq
from kbit.nn.targets import find_targets
from kbit.tensor.quantized import QuantizedTensor

Make = Callable[[str], nn.Module]


def encoded(model: nn.Module, plan: Plan | str, ids: torch.Tensor, **options) -> dict[str, QuantizedTensor]:
    targets, _ = find_targets(model, Plan.of(plan).scheme_for)
    return {target.name: tensor for target, tensor in encode_sequentially(model, targets, CalibrationWindows(ids.numpy()), **options)}


def inputs_of(model: nn.Module, name: str, ids: torch.Tensor) -> np.ndarray:
    """Rows that module `name` gets when the whole model runs."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    return torch.cat([one.reshape(-1, one.shape[-1]) for one in seen]).numpy()


def with_weights(model: nn.Module, tensors: dict[str, QuantizedTensor], prefix: str) -> nn.Module:
    """`model` with the decoded weights of the modules under `prefix`."""
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            layer = model.get_submodule(name)
            weight = torch.from_numpy(tensor.dequantize())
            layer.weight.data.copy_(weight.T if hasattr(layer, "nf") else weight)
    return model


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["+gptq", "+imp"])
def test_inputs_are_those_from_encoded_layers(kind: str, method: str, make_model: Make, ids: torch.Tensor) -> None:
    scheme = Scheme.parse(f"int2:g16{method}")
    found = encoded(make_model(kind), scheme.text, ids)
    layers = "model.layers" if kind == "llama" else "transformer.h"
    for name in [name for name in found if name.startswith(f"{layers}.1.")]:
        half_encoded = with_weights(make_model(kind), found, f"{layers}.0.")
        weight = half_encoded.get_submodule(name).weight.detach().numpy()
        weight = weight if kind == "llama" else weight.T
        codes = {}
        for label, model in (("encoded", half_encoded), ("original", make_model(kind))):
            x = inputs_of(model, name, ids)
            if method == "+gptq":
                codes[label] = encode_gptq(np.ascontiguousarray(weight), scheme, x.T @ x).codes()
            else:
                codes[label] = encode(np.ascontiguousarray(weight), scheme, importance=(x**2).mean(0)).codes()
        assert (found[name].codes() != codes["encoded"]).mean() < 0.005, name
        if method == "+gptq":
            assert (found[name].codes() != codes["original"]).mean() > 0.02, name


def test_the_model_holds_the_decoded_weights_afterwards(make_model: Make, ids: torch.Tensor) -> None:
    model = make_model("llama")
    plan = Plan(Scheme.parse("nf3:g16+gptq"), embedding=Scheme.parse("int8:g32"), head=Scheme.parse("int4:g32+imp"))
    found = encoded(model, plan, ids)
    assert {"model.embed_tokens", "lm_head", "model.layers.1.mlp.down_proj"} <= set(found)
    for name, tensor in found.items():
        assert np.array_equal(model.get_submodule(name).weight.detach().numpy(), tensor.dequantize()), name
    x = inputs_of(model, "lm_head", ids)
    original = make_model("llama").get_submodule("lm_head").weight.detach().numpy()
    expected = encode(original, Scheme.parse("int4:g32+imp"), importance=(x**2).mean(0))
    assert (found["lm_head"].codes() != expected.codes()).mean() < 0.005


def test_same_text_same_bytes_and_known_weights_are_taken_as_they_are(make_model: Make, ids: torch.Tensor) -> None:
    one, other = (encoded(make_model("llama"), "int3:g32+imp+gptq", ids) for _ in range(2))
    known = {name: tensor for name, tensor in one.items() if ".0." in name or "1.self_attn.q" in name}
    resumed = encoded(make_model("llama"), "int3:g32+imp+gptq", ids, known=known.get)
    for tensors in (other, resumed):
        assert tensors.keys() == one.keys()
        for name, tensor in one.items():
            assert all(np.array_equal(part, tensors[name].parts()[key]) for key, part in tensor.parts().items()), name
    assert all(resumed[name] is tensor for name, tensor in known.items())


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_experts_are_encoded_by_the_rows_routed_to_them(kind: str, make_model: Make, ids: torch.Tensor) -> None:
    model = make_model(kind)
    report = CalibrationReport.of(CalibrationWindows(ids.numpy()))
    found = encoded(model, "int3:g16+gptq", ids, report=report)
    stacks = {name: rows for name, rows in report.experts.items() if "layers.0" in name}
    assert len(stacks) == 2
    for rows in stacks.values():
        assert sum(rows) == 2 * ids.numel()  # two experts a token
        assert len(rows) == 4
    for name in stacks:
        assert found[name].shape[0] == 4
        parameter = model.get_parameter(name).detach().numpy()
        decoded = found[name].dequantize()
        assert np.array_equal(parameter, decoded.transpose(0, 2, 1) if kind == "gpt_oss" else decoded)
    assert report.to_json()["tokens"] == ids.numel()


def test_an_expert_that_no_token_reaches_is_encoded_by_the_nearest_and_named(make_model: Make, ids: torch.Tensor) -> None:
    model = make_model("mixtral")
    gate = next(module for name, module in model.named_modules() if name == "model.layers.0.mlp.gate")
    gate.weight.data[2:] = 0
    gate.weight.data[:2] = 1e3 * torch.sign(torch.randn(64))  # whatever its sign, 0 and 1 win or lose together
    original = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    report = CalibrationReport.of(CalibrationWindows(ids[:1, :1].numpy()))
    found = encoded(model, "int3:g16+gptq", ids[:1, :1], report=report)
    unseen = [name for name in report.unseen if "layers.0." in name]
    assert len(unseen) == 4  # one token reaches two of four experts, in two projections
    name, index = unseen[0].removesuffix("]").split("[")
    plain = encode(original[name][int(index)].numpy(), Scheme.parse("int3:g16"))
    assert np.array_equal(found[name].codes()[int(index)], plain.codes())
    assert "never reached" in report.notes()[0]


def test_refusals(make_model: Make, ids: torch.Tensor) -> None:
    gptq, plain = Scheme.parse("int3:g16+gptq"), Scheme.parse("int3:g16")
    with pytest.raises(SchemeError, match=r"model.embed_tokens: methods weigh the inputs of linear layers, .* kind 'embedding'"):
        encoded(make_model("llama"), Plan(plain, embedding=gptq), ids)
    with pytest.raises(ModelError, match="below the model's vocabulary of 96, got 96"):
        encoded(make_model("llama"), "int3:g16+gptq", ids * 0 + 96)
    with pytest.raises(ModelError, match="has an encoder and a decoder"):
        encoded(make_model("t5"), "int3:g16+gptq", ids)
    for method in ("+gptq", "+imp"):
        broken = make_model("llama")
        broken.get_parameter("model.layers.1.input_layernorm.weight").data[3] = float("nan")
        with pytest.raises(NumericsError, match=r"model.layers.1.self_attn.q_proj: expected (a )?finite"):
            encoded(broken, f"int3:g16{method}", ids)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_a_spent_model_gives_its_weights_back(kind: str, make_model: Make, ids: torch.Tensor) -> None:
    plan = "int3:g16+imp+gptq"
    kept, spent = make_model(kind), make_model(kind)
    expected, found = encoded(kept, plan, ids), encoded(spent, plan, ids, spend=True)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert np.array_equal(tensor.weight, expected[name].weight)
        assert np.array_equal(tensor.scale, expected[name].scale)
    emptied = {name for name, parameter in spent.named_parameters() if parameter.numel() == 0}
    targets, _ = find_targets(spent := make_model(kind), Plan.of(plan).scheme_for)
    assert emptied == {target.parameter for target in targets if "layers." in target.name or ".h." in target.name}
    assert all(parameter.numel() for parameter in kept.parameters())
