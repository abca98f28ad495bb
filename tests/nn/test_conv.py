"""Convolutions over packed matrices against torch's own on the decoded weight."""

import pytest
import torch
from torch import nn

from kbit.core.errors import ModelError
from kbit.core.scheme import Scheme
from kbit.nn import KbitConv1D, KbitConv2d, swap

from .conftest import random_quantized


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 4},
        {"stride": (2, 1), "padding": (3, 1), "dilation": (1, 2)},
        {"padding": "same", "dilation": (2, 1)},
        {"padding": "valid", "bias": False},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": (1, 2), "padding_mode": "circular"},
    ],
)
def test_conv2d_equals_its_dequantized_self(options: dict[str, object]) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 20, (4, 3), **options))
    swap(model, "int5:g16", mode="exact")
    packed = model[0]
    assert isinstance(packed, KbitConv2d)
    x = torch.randn(2, 3, 13, 11)
    torch.testing.assert_close(packed(x), packed.dequantize()(x), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(packed(x[0]), packed.dequantize()(x[0]), rtol=1e-5, atol=1e-4)
    assert "scheme=int5:g16" in repr(packed)


def test_conv2d_refuses_groups() -> None:
    with pytest.raises(ModelError, match="expected a convolution of one group, got groups=4"):
        KbitConv2d(4, 8, 3, Scheme.parse("int4:g16"), groups=4)
    report = swap(model := nn.Sequential(nn.Conv2d(4, 8, 3, groups=4)), "int4:g16")
    assert type(model[0]) is nn.Conv2d
    assert report.kept[0].reason == "it is a convolution of 4 groups"


def test_conv2d_constructor_makes_memory() -> None:
    layer = KbitConv2d(3, 8, 2, Scheme.parse("int4:g16"), padding=1)
    assert layer.bias.device.type == layer.weight.device.type == "cpu"
    assert (layer.kernel_size, layer.padding, layer.packed_shape) == ((2, 2), (1, 1), (8, 12))


def test_conv1d_is_a_transposed_linear() -> None:
    quantized = random_quantized("nf4:g32", 24, 64)
    layer = KbitConv1D.from_quantized(quantized, torch.randn(24))
    layer.mode = "exact"
    x = torch.randn(2, 5, 64)
    expected = x @ torch.from_numpy(quantized.dequantize()).t() + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-4)
    assert "nf=24, nx=64, scheme=nf4:g32" in repr(layer)
