"""Convolutions as matrices: `KbitConv1D` (GPT-2's transposed linear) and `KbitConv2d` (patches of an image)."""

from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from kbit.core.errors import ModelError
from kbit.core.scheme import Scheme
from kbit.nn.ops import linear
from kbit.nn.packed import PackedModule
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["KbitConv1D", "KbitConv2d"]


class KbitConv1D(PackedModule):
    """GPT-2's "Conv1D", y = x·W + b with W [nx, nf]: a linear layer with the weight transposed.

    The packed matrix is [nf, nx], so that a row is an output as everywhere else.
    """

    def __init__(self, nf: int, nx: int, scheme: Scheme, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self._init_packed(scheme, (nf, nx), device, dtype)
        self.bias = nn.Parameter(torch.empty(nf, device=device, dtype=dtype))

    @classmethod
    def from_quantized(cls, quantized: QuantizedTensor, bias: torch.Tensor) -> Self:
        """Module over `quantized` [nf, nx]."""
        nf, nx = quantized.shape
        module = cls(nf, nx, quantized.scheme, device="meta", dtype=bias.dtype)
        module.load_quantized(quantized)
        module.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
        return module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [..., nx] → [..., nf]."""
        y = linear(x, self.handles()[0], self.mode)
        return y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        """Shape and scheme."""
        return f"nf={self.nf}, nx={self.nx}, scheme={self.scheme.text}"


class KbitConv2d(PackedModule, nn.Conv2d):
    """`nn.Conv2d` as a matrix [out_channels, in_channels·kh·kw] over unfolded patches.

    Raises:
        ModelError: grouped convolutions: their rows read different inputs, and depthwise ones have a handful of weights a row.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        scheme: Scheme,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if groups != 1:
            raise ModelError(f"expected a convolution of one group, got groups={groups}: leave it in 16 bits with a skip pattern")
        # on the meta device: nn.Conv2d checks and normalises the arguments, and no weight is drawn
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, 1, bias, padding_mode, device="meta", dtype=dtype
        )
        del self._parameters["weight"]
        self._init_packed(scheme, (out_channels, in_channels * self.kernel_size[0] * self.kernel_size[1]), device, dtype)
        if bias and device != "meta":
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))

    @classmethod
    def like(cls, conv: nn.Conv2d, scheme: Scheme, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """An empty module with the geometry of `conv`."""
        return cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, scheme, conv.stride, conv.padding, conv.dilation, conv.groups,
            conv.bias is not None, conv.padding_mode, device, dtype or conv.weight.dtype,
        )  # fmt: skip

    @classmethod
    def from_quantized(cls, quantized: QuantizedTensor, conv: nn.Conv2d) -> Self:
        """Module over `quantized` [out_channels, in_channels·kh·kw] with the geometry and bias of `conv`."""
        module = cls.like(conv, quantized.scheme, device="meta")
        module.load_quantized(quantized)
        module.bias = conv.bias
        return module

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (the name nn.Conv2d has)
        """`input` [batch, channels, height, width] or [channels, height, width] → the same with out_channels."""
        x = input if input.ndim == 4 else input[None]
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = functional.pad(x, self._reversed_padding_repeated_twice, mode=mode)
        size = [
            (length - dilation * (kernel - 1) - 1) // stride + 1
            for length, dilation, kernel, stride in zip(x.shape[2:], self.dilation, self.kernel_size, self.stride, strict=True)
        ]
        patches = functional.unfold(x, self.kernel_size, self.dilation, 0, self.stride)
        y = linear(patches.transpose(1, 2), self.handles()[0], self.mode)
        y = y if self.bias is None else y + self.bias.to(y.dtype)
        y = y.transpose(1, 2).reshape(x.shape[0], self.out_channels, *size)
        return y if input.ndim == 4 else y[0]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> nn.Conv2d:
        """An ordinary `nn.Conv2d` with the decoded weight."""
        geometry: dict[str, Any] = {name: getattr(self, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
        module = nn.Conv2d(self.in_channels, self.out_channels, bias=self.bias is not None, device="meta", **geometry)
        weight = self.dequantize_weight(dtype).reshape(self.out_channels, self.in_channels, *self.kernel_size)
        module.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            module.bias = nn.Parameter(self.bias.detach().to(dtype), requires_grad=False)
        return module

    def reset_parameters(self) -> None:
        """Nothing to draw: codes come from an encoder or a file."""

    def extra_repr(self) -> str:
        """Geometry and scheme."""
        return f"{_geometry(self)}, scheme={self.scheme.text}"


def _geometry(conv: nn.Conv2d) -> str:
    text: str = nn.Conv2d.extra_repr(conv)  # type: ignore[no-untyped-call]
    return text
