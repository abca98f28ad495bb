"""Packed parameters keep their bits through everything torch does to modules."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from kbit.core.errors import DTypeError, ModelError, SchemeError, ShapeError
from kbit.core.scheme import KEEP, Scheme
from kbit.nn import KbitEmbedding, KbitLinear, PackedModule, PackedParameter, share_packed
from kbit.tensor.quantized import QuantizedTensor

from .conftest import random_quantized


def bits(module: PackedModule) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in module.quantized.parts().items()}


@pytest.fixture
def layer(quantized: QuantizedTensor) -> KbitLinear:
    return KbitLinear.from_quantized(quantized, torch.randn(40))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_casts_do_not_touch_the_bits(layer: KbitLinear, quantized: QuantizedTensor, dtype: torch.dtype) -> None:
    before = bits(layer)
    model = nn.Sequential(layer).to(dtype)
    assert layer.bias.dtype == dtype
    assert bits(layer) == before == {name: part.tobytes() for name, part in quantized.parts().items()}
    model.to(torch.float32).half().bfloat16().float()
    assert bits(layer) == before


def test_weight_answers_with_the_dtype_that_is_computed_in(layer: KbitLinear) -> None:
    assert layer.weight.dtype == layer.compute_dtype == torch.float32
    layer.bfloat16()
    assert layer.weight.dtype == layer.compute_dtype == torch.bfloat16
    assert layer.weight.detach().dtype == layer.state_dict()["weight"].dtype == torch.uint8
    assert not any(parameter.requires_grad for name, parameter in layer.named_parameters() if name != "bias")


def test_state_dict_round_trip(layer: KbitLinear, quantized: QuantizedTensor) -> None:
    layer.mode = "exact"
    x = torch.randn(3, 96)
    expected = layer(x)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for assign in (False, True):
        fresh = KbitLinear(96, 40, quantized.scheme)
        fresh.mode = "exact"
        fresh.load_state_dict(state, assign=assign)
        assert bits(fresh) == bits(layer)
        assert torch.equal(fresh(x), expected)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies(layer: KbitLinear, how: str) -> None:
    x = torch.randn(3, 96)
    expected = layer(x)
    layer.bfloat16()
    if how == "deepcopy":
        copied = copy.deepcopy(layer)
    elif how == "pickle":
        copied = pickle.loads(pickle.dumps(layer))
    else:
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        copied = torch.load(file, weights_only=False)
    assert bits(copied) == bits(layer)
    assert isinstance(copied.weight, PackedParameter)
    assert copied.weight.dtype == torch.bfloat16
    copied.float().bias = layer.bias
    assert torch.equal(copied(x), layer(x))
    assert copied(x).shape == expected.shape
    assert copied.weight.data_ptr() != layer.weight.data_ptr()


def test_meta_and_back(layer: KbitLinear) -> None:
    state = layer.state_dict()
    meta = copy.deepcopy(layer).to("meta")
    assert all(parameter.is_meta for parameter in meta.parameters())
    with pytest.raises(ModelError, match="never loaded"):
        meta(torch.randn(1, 96))
    meta.to_empty(device="cpu").load_state_dict(state)
    assert bits(meta) == bits(layer)
    assert torch.equal(meta(torch.ones(1, 96)), layer(torch.ones(1, 96)))


def test_prepared_matrix_follows_the_tensors(quantized: QuantizedTensor) -> None:
    layer = KbitLinear.from_quantized(quantized)
    x = torch.randn(2, 96)
    first = layer(x)
    assert layer.handles() is layer.handles()
    other = random_quantized(quantized.scheme.text, 40, 96).__class__.from_parts(
        quantized.scheme, quantized.shape, {name: part.copy() for name, part in quantized.parts().items()}
    )
    with torch.no_grad():
        layer.weight_scale.zero_()  # every scheme decodes to zeros with scales of zero
    assert torch.count_nonzero(layer(x)) == 0
    layer.load_quantized(other)
    assert torch.equal(layer(x), first)
    layer.load_state_dict({name: torch.zeros_like(part) if name == "weight_scale" else part for name, part in layer.state_dict().items()})
    assert torch.count_nonzero(layer(x)) == 0


def test_refuses_other_dtypes_for_a_part(layer: KbitLinear) -> None:
    with pytest.raises(DTypeError, match=r"weight: expected torch\.uint8, got torch\.float32"):
        layer.weight = nn.Parameter(torch.zeros(4))
    layer.weight.data = layer.weight.data.float()
    with pytest.raises(DTypeError, match="something cast the codes"):
        layer(torch.randn(1, 96))


def test_refuses_other_weights(layer: KbitLinear, quantized: QuantizedTensor) -> None:
    with pytest.raises(ShapeError, match=r"expected a weight of .* \[40, 96\], got .* \[40, 80\]"):
        layer.load_quantized(random_quantized(quantized.scheme.text, 40, 80))
    with pytest.raises(SchemeError, match="leaves a module as it is"):
        KbitLinear(8, 8, KEEP)
    with pytest.raises(SchemeError, match="mode must be one of fast, exact"):
        layer.mode = "quick"


def test_shared_weight_is_one_weight(quantized: QuantizedTensor) -> None:
    embedding = KbitEmbedding.from_quantized(quantized)
    head = KbitLinear(96, 40, quantized.scheme, bias=False)
    share_packed(embedding, head)
    model = nn.ModuleList([embedding, head])
    assert head.weight is embedding.weight
    assert len(list(model.parameters())) == len(quantized.parts())
    for tied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.bfloat16()):
        assert tied[0].weight is tied[1].weight
        assert tied[0].weight_scale is tied[1].weight_scale
    with pytest.raises(ShapeError, match="cannot share"):
        share_packed(embedding, KbitLinear(96, 40, Scheme.parse("int4:g16"), bias=False))
