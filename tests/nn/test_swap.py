"""`swap` and `unswap` on ordinary torch modules."""

import numpy as np
import pytest
import torch
from torch import nn

from kbit.core.errors import ModelError, NumericsError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.nn import KbitConv2d, KbitEmbedding, KbitLinear, packed_modules, set_mode, swap, unswap

from .test_targets import PLAN, Language

IDS = torch.tensor([[1, 5, 47]])


def test_packed_bytes_are_those_of_the_encoder() -> None:
    model = Language(tied=False)
    weights = {name: layer.weight.detach().clone().numpy() for name, layer in model.named_modules() if hasattr(layer, "weight")}
    swap(model, PLAN)
    for name, layer in packed_modules(model).items():
        expected = encode(weights[name], layer.scheme).parts()
        assert {part: array.tobytes() for part, array in layer.quantized.parts().items()} == {
            part: array.tobytes() for part, array in expected.items()
        }


@pytest.mark.parametrize("tied", [False, True])
def test_there_and_back(tied: bool) -> None:
    model = Language(tied)
    before = model(IDS)
    swap(model, PLAN, mode="exact")
    packed = model(IDS)
    assert (model.lm_head.weight is model.embed.weight) is tied
    assert 0 < (packed - before).norm() < 0.1 * before.norm()
    unswap(model)
    assert (model.lm_head.weight is model.embed.weight) is tied
    assert (type(model.lm_head), type(model.embed)) == (nn.Linear, nn.Embedding)
    torch.testing.assert_close(model(IDS), packed, rtol=1e-5, atol=1e-5)


def test_shared_layer_is_swapped_in_every_place() -> None:
    shared = nn.Linear(32, 32)
    model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    report = swap(model, "int4:g16")
    assert isinstance(model[0], KbitLinear)
    assert model[0] is model[2][0]
    assert len(report.packed) == 1
    unswap(model)
    assert model[0] is model[2][0]
    assert type(model[0]) is nn.Linear


def test_vision_stack_and_training_flag() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.Flatten(2), nn.Linear(9, 8)).eval()
    model[2].train()
    swap(model, "int6:g16", mode="exact")
    assert isinstance(model[0], KbitConv2d)
    assert [model[0].training, model[2].training] == [False, True]
    x = torch.randn(2, 3, 12, 12)
    y = model(x)
    unswap(model)
    torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)


def test_set_mode() -> None:
    model = Language(tied=False)
    swap(model, PLAN)
    fast = model(IDS)
    set_mode(model, "exact")
    assert {layer.mode for layer in packed_modules(model).values()} == {"exact"}
    assert not torch.equal(model(IDS), fast)


def test_bfloat16_model_stays_bfloat16() -> None:
    model = Language(tied=True).bfloat16()
    swap(model, PLAN)
    assert model(IDS).dtype == torch.bfloat16
    assert model.lm_head.weight.dtype == torch.bfloat16


def test_empty_layers_for_a_loader() -> None:
    with torch.device("meta"):
        model = Language(tied=True)
    report = swap(model, PLAN, encoder=None)
    assert len(report.packed) == 2
    assert isinstance(model.embed, KbitEmbedding)
    assert model.lm_head.weight is model.embed.weight
    assert all(parameter.is_meta for parameter in model.parameters())


def test_transformer_encoder_runs_without_its_fused_path() -> None:
    torch.manual_seed(4)
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True).eval()
    model = nn.ModuleDict({"encoder": layer})
    report = swap(model, "int6:g16", mode="exact")
    assert {kept.name for kept in report.kept} == {"encoder.self_attn.out_proj"}
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        y = model["encoder"](x)
        unswap(model)
        torch.testing.assert_close(model["encoder"](x), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_refuses_what_is_not_finite(bad: float) -> None:
    model = Language(tied=False)
    with torch.no_grad():
        model.block[0].weight[3, 7] = bad
    with pytest.raises(NumericsError, match=r"block\.0.*\[3, 7\]"):
        swap(model, Plan(Scheme.parse("int4:g16")))


def test_refuses_the_meta_device() -> None:
    with pytest.raises(ModelError, match=r"lm_head\.weight is on the meta device"):
        swap(Language(tied=False).to("meta"), PLAN)


def test_encoder_sees_name_scheme_and_float32() -> None:
    seen: list[tuple[str, str, np.dtype, tuple[int, ...]]] = []

    def spy(weight: np.ndarray, scheme: Scheme, name: str):
        seen.append((name, scheme.text, weight.dtype, weight.shape))
        return encode(weight, scheme)

    swap(Language(tied=True).bfloat16(), PLAN, encoder=spy)
    assert seen == [
        ("embed", "int8:g16", np.dtype(np.float32), (48, 32)),
        ("block.0", "int4:g16", np.dtype(np.float32), (32, 32)),
    ]
