"""`KbitEmbedding` is an `nn.Embedding` with the decoded table."""

import pytest
import torch
from torch import nn

from kbit.core.errors import ShapeError
from kbit.nn import KbitEmbedding
from kbit.tensor.quantized import QuantizedTensor

IDS = torch.tensor([[0, 39, 7], [7, 7, 12]])


def test_equals_its_dequantized_self(quantized: QuantizedTensor) -> None:
    layer = KbitEmbedding.from_quantized(quantized, padding_idx=1)
    ordinary = layer.dequantize()
    assert isinstance(layer, nn.Embedding)
    assert (layer.num_embeddings, layer.embedding_dim, layer.padding_idx) == (40, 96, 1)
    assert ordinary.padding_idx == 1
    assert torch.equal(layer(IDS), ordinary(IDS))


def test_answers_in_the_models_dtype(quantized: QuantizedTensor) -> None:
    layer = KbitEmbedding.from_quantized(quantized).bfloat16()
    assert layer(IDS).dtype == torch.bfloat16
    assert torch.equal(layer(IDS), torch.from_numpy(quantized.dequantize())[IDS].bfloat16())


def test_multiplier_scales_rows_in_their_dtype(quantized: QuantizedTensor) -> None:
    layer = KbitEmbedding.from_quantized(quantized, multiplier=96**0.5, dtype=torch.bfloat16)
    rows = torch.from_numpy(quantized.dequantize())[IDS].bfloat16()
    assert torch.equal(layer(IDS), rows * torch.tensor(96**0.5, dtype=torch.bfloat16))


def test_refuses_ids_outside_the_table(quantized: QuantizedTensor) -> None:
    with pytest.raises(ShapeError, match="got 40"):
        KbitEmbedding.from_quantized(quantized)(torch.tensor([40]))
