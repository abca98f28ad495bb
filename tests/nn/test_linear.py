"""`KbitLinear` is an `nn.Linear` with the decoded weight."""

import pytest
import torch
from torch import nn

from kbit.core.scheme import Scheme
from kbit.nn import KbitLinear
from kbit.tensor.quantized import QuantizedTensor


@pytest.mark.parametrize("bias", [True, False])
def test_equals_its_dequantized_self(quantized: QuantizedTensor, bias: bool) -> None:
    layer = KbitLinear.from_quantized(quantized, torch.randn(40) if bias else None)
    layer.mode = "exact"
    x = torch.randn(2, 5, 96)
    ordinary = layer.dequantize()
    assert type(ordinary) is nn.Linear
    assert torch.equal(ordinary.weight, torch.from_numpy(quantized.dequantize()))
    torch.testing.assert_close(layer(x), ordinary(x), rtol=1e-5, atol=1e-4)


def test_fast_mode_is_near_exact_mode(quantized: QuantizedTensor) -> None:
    layer = KbitLinear.from_quantized(quantized)
    x = torch.randn(8, 96)
    fast = layer(x)
    layer.mode = "exact"
    assert (fast - layer(x)).norm() < 0.05 * layer(x).norm()
    assert not torch.equal(fast, layer(x))


def test_is_a_linear_layer_with_bias_that_learns() -> None:
    layer = KbitLinear(32, 16, Scheme.parse("int4:g32"))
    assert isinstance(layer, nn.Linear)
    assert (layer.in_features, layer.out_features) == (32, 16)
    assert [name for name, parameter in layer.named_parameters() if parameter.requires_grad] == ["bias"]
    assert "in_features=32, out_features=16, bias=True, scheme=int4:g32" in repr(layer)


def test_bfloat16_in_bfloat16_out(quantized: QuantizedTensor) -> None:
    layer = KbitLinear.from_quantized(quantized, torch.randn(40)).bfloat16()
    y = layer(torch.randn(3, 96, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert layer.dequantize(torch.bfloat16).weight.dtype == torch.bfloat16


def test_compiles(quantized: QuantizedTensor) -> None:
    layer = KbitLinear.from_quantized(quantized)
    x = torch.randn(3, 96)
    expected = layer(x)
    compiled = torch.compile(layer, backend="eager")
    assert torch.equal(compiled(x), expected)
