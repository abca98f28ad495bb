"""`KbitExperts`: the fused experts of a mixture-of-experts layer, each expert a packed matrix of its own.

transformers keeps the experts of a layer in two 3-D parameters, `gate_up_proj` [E, 2·I, H] (`up_proj` [E, I, H] without a gate) and
`down_proj` [E, H, I], or both with the last two dimensions exchanged (`is_transposed`), and states by flags what else there is (`has_gate`,
`has_bias`, `has_post_expert_norm`). Here each parameter becomes a `KbitStack`, a module that holds E packed matrices with rows as outputs.
Everything else of the layer (activation, gate, biases, numbers) is taken over as it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kbit.core.scheme import Scheme
from kbit.nn.ops import linear
from kbit.nn.packed import PackedModule
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["KbitExperts", "KbitStack", "expert_projections", "is_experts"]


def is_experts(module: nn.Module) -> bool:
    """True for a layer of fused experts that follows transformers' experts interface."""
    flags = all(hasattr(module, flag) for flag in ("has_gate", "has_bias", "is_transposed", "num_experts"))
    return flags and all(
        isinstance(parameter := module._parameters.get(name), nn.Parameter) and parameter.ndim == 3 for name in expert_projections(module)
    )


def expert_projections(module: nn.Module) -> tuple[str, str]:
    """Names of the two 3-D parameters of an experts layer."""
    return ("gate_up_proj" if getattr(module, "has_gate", True) else "up_proj"), "down_proj"


class KbitStack(PackedModule):
    """`count` packed matrices [rows, cols] of one scheme, one for each expert."""

    def __init__(self, count: int, rows: int, cols: int, scheme: Scheme, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self._init_packed(scheme, (count, rows, cols), device, dtype)

    @classmethod
    def from_quantized(cls, quantized: QuantizedTensor, dtype: torch.dtype | None = None) -> "KbitStack":
        """Module over `quantized` [count, rows, cols]."""
        count, rows, cols = quantized.shape
        module = cls(count, rows, cols, quantized.scheme, device="meta", dtype=dtype or torch.float32)
        module.load_quantized(quantized)
        return module

    def forward(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """`x` [n, cols] times matrix `index` transposed: [n, rows]."""
        return linear(x, self.handles()[index], self.mode)

    def extra_repr(self) -> str:
        """Shape and scheme."""
        return f"{', '.join(map(str, self.packed_shape))}, scheme={self.scheme.text}"


class KbitExperts(nn.Module):
    """A layer of packed experts, made of an ordinary one; either projection may stay in 16 bits.

    Args:
        origin: the layer to take over; its 3-D parameters are replaced by `projections`.
        projections: name of the parameter → its packed stack (rows are outputs).
    """

    num_experts: int

    def __init__(self, origin: nn.Module, projections: dict[str, KbitStack]) -> None:
        super().__init__()
        self.origin_class = type(origin)
        internals = set(self.__dict__)
        self.__dict__.update({name: value for name, value in origin.__dict__.items() if name not in internals})
        for name, value in origin._buffers.items():
            self.register_buffer(name, value, persistent=name not in origin._non_persistent_buffers_set)
        for name, module in origin._modules.items():
            self.add_module(name, module)
        for name, parameter in origin._parameters.items():
            if name not in projections:
                self.register_parameter(name, parameter)
        for name, stack in projections.items():
            self.add_module(name, stack)

    def forward(self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
        """Weighted sum of the chosen experts: states [n, H], choices and weights [n, k] → [n, H].

        Each (token, choice) pair has a slot of its own and slots are added in order of choice, so the sum does not depend on how tokens
        are grouped. A choice of `num_experts` is a mask and contributes nothing.
        """
        tokens, choices = top_k_index.shape
        slots = hidden_states.new_zeros(tokens * choices, hidden_states.shape[-1])
        flat_index, flat_weights = top_k_index.reshape(-1), top_k_weights.reshape(-1, 1)
        for expert in torch.unique(flat_index).tolist():
            if expert < self.num_experts:
                slot = torch.where(flat_index == expert)[0]
                y = self._expert(hidden_states[slot // choices], expert)
                slots.index_copy_(0, slot, (y * flat_weights[slot]).to(slots.dtype))
        return slots.view(tokens, choices, hidden_states.shape[-1]).sum(dim=1)

    def _expert(self, x: torch.Tensor, expert: int) -> torch.Tensor:
        first, second = expert_projections(self)
        y = self._project(x, first, expert)
        y = self._apply_gate(y) if self._flag("has_gate") else self._layer("act_fn")(y)
        y = self._project(y, second, expert)
        return self._layer("post_expert_norm")(y) if self._flag("has_post_expert_norm") else y

    def _project(self, x: torch.Tensor, name: str, expert: int) -> torch.Tensor:
        projection = getattr(self, name)
        if isinstance(projection, KbitStack):
            y: torch.Tensor = projection(x, expert)
        else:
            weight = projection[expert]
            y = x @ weight if self._flag("is_transposed") else nn.functional.linear(x, weight)
        if self._flag("has_bias"):
            bias: torch.Tensor = getattr(self, f"{name}_bias")[expert]
            y = y + bias.to(y.dtype)
        return y

    def _apply_gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate: Any = self.origin_class._apply_gate  # type: ignore[attr-defined]
        gated: torch.Tensor = gate(self, gate_up)
        return gated

    def _flag(self, name: str) -> bool:
        return bool(getattr(self, name, False))

    def _layer(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        layer: Callable[[torch.Tensor], torch.Tensor] = getattr(self, name)
        return layer

    def dequantize(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The ordinary layer, with decoded parameters."""
        layer: nn.Module = self.origin_class.__new__(self.origin_class)
        nn.Module.__init__(layer)
        internals = set(layer.__dict__) | {"origin_class"}
        layer.__dict__.update({name: value for name, value in self.__dict__.items() if name not in internals})
        for name, value in self._buffers.items():
            layer.register_buffer(name, value, persistent=name not in self._non_persistent_buffers_set)
        for name, parameter in self._parameters.items():
            value = None if parameter is None else nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
            layer.register_parameter(name, value)
        for name, module in self._modules.items():
            if isinstance(module, KbitStack):
                weight = module.dequantize_weight(dtype)
                weight = weight.transpose(1, 2).contiguous() if self._flag("is_transposed") else weight
                layer.register_parameter(name, nn.Parameter(weight, requires_grad=False))
            else:
                layer.add_module(name, module)
        return layer
