"""`KbitLinear`: `nn.Linear` over a packed weight."""

from typing import Any, Self

import torch
from torch import nn

from kbit.core.scheme import Scheme
from kbit.nn.ops import linear
from kbit.nn.packed import PackedModule
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["KbitLinear"]


class KbitLinear(PackedModule, nn.Linear):
    """y = x·Wᵀ + b with W [out_features, in_features] in k bits; the answer has the dtype of x.

    The constructor leaves the weight empty, to be filled by a loader; `from_quantized` takes one that exists.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: Scheme,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self._init_packed(scheme, (out_features, in_features), device, dtype)
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None)

    @classmethod
    def from_quantized(cls, quantized: QuantizedTensor, bias: torch.Tensor | None = None, dtype: torch.dtype | None = None) -> Self:
        """Module over `quantized` [out_features, in_features]; `dtype` (default: of the bias, else float32) is what it computes for."""
        out_features, in_features = quantized.shape
        dtype = dtype or (torch.float32 if bias is None else bias.dtype)
        module = cls(in_features, out_features, quantized.scheme, bias=False, device="meta", dtype=dtype)
        module.load_quantized(quantized)
        if bias is not None:
            module.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
        return module

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (the name nn.Linear has)
        """`input` [..., in_features] → [..., out_features]."""
        y = linear(input, self.handles()[0], self.mode)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """An ordinary `nn.Linear` with the decoded weight."""
        module = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        module.weight = nn.Parameter(self.dequantize_weight(dtype), requires_grad=False)
        if self.bias is not None:
            module.bias = nn.Parameter(self.bias.detach().to(dtype), requires_grad=False)
        return module

    def reset_parameters(self) -> None:
        """Nothing to draw: codes come from an encoder or a file."""

    def extra_repr(self) -> str:
        """Shape, bias and scheme."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, scheme={self.scheme.text}"
