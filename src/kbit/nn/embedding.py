"""`KbitEmbedding`: `nn.Embedding` over a packed table."""

from typing import Any, Self

import torch
from torch import nn

from kbit.core.errors import ModelError
from kbit.core.scheme import Scheme
from kbit.nn.ops import embedding
from kbit.nn.packed import PackedModule
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["KbitEmbedding"]


class KbitEmbedding(PackedModule, nn.Embedding):
    """Rows of a table [num_embeddings, embedding_dim] in k bits, decoded as they are asked for, in `compute_dtype`.

    `padding_idx` only matters to gradients and is kept for those who read it. `multiplier` is the constant that scaled word embeddings
    (Gemma, BART) multiply their rows with, and `ordinary_class` is their class.
    """

    ordinary_class: type[nn.Embedding] = nn.Embedding

    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    sparse: bool

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        scheme: Scheme,
        padding_idx: int | None = None,
        multiplier: float | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse = None, 2.0, False, False
        self.multiplier = multiplier
        self._init_packed(scheme, (num_embeddings, embedding_dim), device, dtype)

    @classmethod
    def from_quantized(
        cls,
        quantized: QuantizedTensor,
        padding_idx: int | None = None,
        multiplier: float | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Module over `quantized` [num_embeddings, embedding_dim]; answers are of `dtype` (float32 unless told)."""
        rows, cols = quantized.shape
        module = cls(rows, cols, quantized.scheme, padding_idx, multiplier, device="meta", dtype=dtype or torch.float32)
        module.load_quantized(quantized)
        return module

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (the name nn.Embedding has)
        """Ids [...] → rows [..., embedding_dim]."""
        rows = embedding(input, self.handles()[0], self.compute_dtype)
        # rounded to the compute dtype first, as the modules that scale their embeddings do
        return rows if self.multiplier is None else rows * torch.tensor(self.multiplier, dtype=rows.dtype)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> nn.Embedding:
        """An ordinary embedding with the decoded table, of `ordinary_class`."""
        weight = nn.Parameter(self.dequantize_weight(dtype))
        if self.multiplier is None:
            return nn.Embedding(self.num_embeddings, self.embedding_dim, padding_idx=self.padding_idx, _weight=weight)
        if self.ordinary_class is nn.Embedding:
            raise ModelError("expected `ordinary_class` to name the class that multiplies its rows, got nn.Embedding, which does not")
        with torch.random.fork_rng(devices=[]):  # the constructor draws a weight, which is replaced at once
            layer = self.ordinary_class(1, 1, None, embed_scale=self.multiplier)  # type: ignore[call-arg]
        layer.num_embeddings, layer.embedding_dim, layer.padding_idx = self.num_embeddings, self.embedding_dim, self.padding_idx
        layer.weight = weight
        return layer

    def reset_parameters(self) -> None:
        """Nothing to draw: codes come from an encoder or a file."""

    def extra_repr(self) -> str:
        """Shape and scheme."""
        return f"{self.num_embeddings}, {self.embedding_dim}, scheme={self.scheme.text}"
