"""`KbitEmbedding` is an `nn.Embedding` with the decoded table."""

import pytest
import torch
from torch import nn

from kbit.core.errors import ModelError, ShapeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.nn import KbitEmbedding, swap, unswap
from kbit.tensor.quantized import QuantizedTensor

PLAN = Plan(Scheme.parse("int4:g32"), embedding=Scheme.parse("int6:g32"))
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


class MyScaledWordEmbedding(nn.Embedding):
    """As transformers' models have it."""

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None, embed_scale: float = 1.0) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.embed_scale = embed_scale

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * self.embed_scale


def test_scaled_table_comes_back_scaled() -> None:
    model = nn.Sequential(MyScaledWordEmbedding(40, 96, 2, embed_scale=3.5))
    swap(model, PLAN)
    packed = model[0]
    assert isinstance(packed, KbitEmbedding)
    assert packed.multiplier == 3.5
    rows = packed(IDS)
    unswap(model)
    assert type(model[0]) is MyScaledWordEmbedding
    assert (model[0].num_embeddings, model[0].padding_idx) == (40, 2)
    assert torch.equal(model(IDS), rows)


def test_multiplier_without_a_class_cannot_be_decoded(quantized: QuantizedTensor) -> None:
    with pytest.raises(ModelError, match="expected `ordinary_class` to name the class"):
        KbitEmbedding.from_quantized(quantized, multiplier=3.5).dequantize()
