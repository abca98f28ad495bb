"""`PackedModule`: a module whose weight is codes, not numbers.

The parts of a `QuantizedTensor` are held as parameters without gradient, named as in the stored file: `weight` (packed planes, uint8),
`weight_scale`, and where the scheme has them `weight_super_scale`, `weight_zero`, `weight_codebook`. Parameters, not buffers: loaders
and `from_pretrained` cast buffers.

Three things must not happen to them, and each has its guard here:

- `module.to(torch.bfloat16)` would round float parts. `_apply` shows every cast the bits of a part as integers, which casts leave alone.
- A model that asks `layer.weight.dtype` to learn what to feed the layer (T5's `wo`, every ViT patch embedding, scaled embeddings) would
  turn its activations into bytes. `PackedParameter.dtype` therefore answers with the dtype the layer computes for; the bytes stay
  uint8 for whoever takes them (`state_dict`, `detach`, `data`).
- A prepared matrix must not outlive the bytes it was made of. It is made at the first forward, and made again when a part has been
  replaced, moved or written to.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kbit.core.errors import DTypeError, ModelError, SchemeError, ShapeError
from kbit.core.scheme import Scheme
from kbit.kernels import MODES, Mode, prepare
from kbit.nn.ops import FLOAT_DTYPES, Handle
from kbit.tensor.quantized import QuantizedTensor, part_shapes

__all__ = ["PackedModule", "PackedParameter", "share_packed"]

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


class PartParameter(nn.Parameter):
    """One stored array of a packed weight. It can be pickled whatever its dtype (torch's own pickling lacks uint16)."""

    def __new__(cls, data: torch.Tensor, requires_grad: bool = False) -> Self:
        """A parameter over the memory of `data`."""
        if requires_grad:
            raise DTypeError("packed weights are codes: they have no gradient")
        return torch.Tensor._make_subclass(cls, data, False)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        stored = self.detach()
        return _rebuild, (type(self), stored.view(_INTEGERS[stored.element_size()]), stored.dtype)


class PackedParameter(PartParameter):
    """uint8 planes that answer `dtype` with the float type their layer computes for."""

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The dtype of the layer's output; `detach().dtype` is the one in memory."""
        answer: torch.dtype = self.__dict__.get("compute_dtype", torch.float32)
        return answer

    def is_floating_point(self) -> bool:
        """True, as `dtype` says: the first float parameter is where transformers reads a model's dtype from."""
        return True


def _rebuild(cls: type[PartParameter], bits: torch.Tensor, dtype: torch.dtype) -> PartParameter:
    return cls(bits.view(dtype))


class PackedModule(nn.Module):
    """Owner of one packed matrix [rows, cols], or of a stack [count, rows, cols].

    Attributes:
        scheme: how the weight is encoded.
        packed_shape: logical shape of the weight.
        mode: arithmetic of the kernels: "fast" (int8 activations) or "exact" (float32 in fixed order).
    """

    scheme: Scheme
    packed_shape: tuple[int, ...]
    _part_dtypes: dict[str, torch.dtype]
    _handles: tuple[tuple[Any, ...], list[Handle]] | None

    def _init_packed(self, scheme: Scheme, shape: tuple[int, ...], device: Any = None, dtype: torch.dtype | None = None) -> None:
        """Empty parts of the right shapes (one scale a row where a group would outreach it); `dtype` is what the layer computes for."""
        if scheme.is_none:
            raise SchemeError("scheme '16' leaves a module as it is: there is nothing to pack")
        self.scheme, self.packed_shape = scheme.for_row(shape[-1]), tuple(shape)
        self._mode: Mode = "fast"
        self._handles = None
        self._compute_dtype = _float_dtype(dtype or torch.get_default_dtype())
        self._part_dtypes = {}
        for name, (part_shape, array_dtype) in part_shapes(self.scheme, self.packed_shape).items():
            part = torch.empty(part_shape, dtype=torch.from_numpy(np.empty(0, array_dtype)).dtype, device=device)
            self._part_dtypes[name] = part.dtype
            self.register_parameter(name, nn.Parameter(part, requires_grad=False))

    @property
    def mode(self) -> Mode:
        """Arithmetic of the kernels."""
        return self._mode

    @mode.setter
    def mode(self, value: Mode) -> None:
        if value not in MODES:
            raise SchemeError(f"mode must be one of {', '.join(MODES)}, got {value!r}")
        self._mode = value

    @property
    def compute_dtype(self) -> torch.dtype:
        """Float type the layer answers `weight.dtype` with; it follows `module.to(dtype)`."""
        return self._compute_dtype

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parameters that make up the weight."""
        return tuple(self._part_dtypes)

    @property
    def quantized(self) -> QuantizedTensor:
        """The weight as a value; it shares memory with the parameters.

        Raises:
            ModelError: the module is on the meta device.
            DTypeError, ShapeError: a parameter is not what the scheme says.
        """
        return QuantizedTensor.from_parts(self.scheme, self.packed_shape, {name: self._part(name) for name in self._part_dtypes})

    def load_quantized(self, quantized: QuantizedTensor) -> None:
        """Take the bytes of `quantized`, of this module's scheme and shape."""
        if (quantized.scheme, quantized.shape) != (self.scheme, self.packed_shape):
            expected, got = (f"{scheme.text} {list(shape)}" for scheme, shape in ((self.scheme, self.packed_shape), _kind(quantized)))
            raise ShapeError(f"expected a weight of {expected}, got {got}")
        for name, part in _owned(quantized.parts()).items():
            param = self._parameters.get(name)
            if param is None or param.is_meta:
                self.register_parameter(name, nn.Parameter(part, requires_grad=False))
            else:
                param.data = part  # the same object: ties stay

    def dequantize_weight(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight as numbers, of `packed_shape`."""
        return torch.from_numpy(np.ascontiguousarray(self.quantized.dequantize())).to(dtype)

    def handles(self) -> list[Handle]:
        """Prepared matrices: one, or one for each member of a stack."""
        if torch.compiler.is_compiling() and self._handles is not None:
            return self._handles[1]
        signature = tuple(_identity(self._parameters[name]) for name in self._part_dtypes)
        if self._handles is None or self._handles[0] != signature:
            quantized = self.quantized
            self._handles = signature, [Handle(matrix, *quantized.shape[-2:]) for matrix in prepare(quantized)]
        return self._handles[1]

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Parts keep their dtype and never ask for a gradient, whoever sets them."""
        if param is not None and name in self.__dict__.get("_part_dtypes", ()):
            param = self._as_part(name, param)
        super().register_parameter(name, param)

    def _as_part(self, name: str, param: nn.Parameter) -> nn.Parameter:
        stored = param.detach().dtype
        if stored != self._part_dtypes[name]:
            raise DTypeError(f"{type(self).__name__}.{name}: expected {self._part_dtypes[name]}, got {stored}")
        cls = PackedParameter if name == "weight" else PartParameter
        if not isinstance(param, cls):
            attributes = param.__dict__
            param = cls(param.detach())
            param.__dict__.update(attributes)  # marks that loaders leave on a parameter
        if isinstance(param, PackedParameter):
            param.compute_dtype = self._compute_dtype  # type: ignore[attr-defined]
        param.requires_grad_(False)
        return param

    def _part(self, name: str) -> NDArray[Any]:
        param = self._parameters[name]
        if param is None or param.is_meta:
            raise ModelError(f"{type(self).__name__}.{name} has no data: the module is on the meta device and was never loaded")
        tensor = param.detach()
        if tensor.dtype != self._part_dtypes[name]:
            raise DTypeError(
                f"{type(self).__name__}.{name}: expected {self._part_dtypes[name]}, got {tensor.dtype}: something cast the codes"
            )
        if tensor.device.type != "cpu":
            raise ModelError(f"{type(self).__name__} runs on the CPU, its weight is on {tensor.device}")
        return tensor.contiguous().numpy()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        order = list(self._parameters)
        parts = {name: self._parameters.pop(name) for name in self._part_dtypes}
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            self._compute_dtype = _float_dtype(fn(torch.empty(0, dtype=self._compute_dtype)).dtype, self._compute_dtype)
        finally:
            rest = dict(self._parameters)
            self._parameters.clear()
            self._parameters.update({name: parts.get(name, rest.get(name)) for name in order})
        for name, param in parts.items():
            if param is not None:
                self._move_part(name, param, fn)
        return self

    def _move_part(self, name: str, param: nn.Parameter, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        bits = param.detach().view(_INTEGERS[param.element_size()])
        moved = fn(bits).view(self._part_dtypes[name])
        if moved.device == param.device:
            param.data = moved  # the same object: ties stay
            self._parameters[name] = self._as_part(name, param)
        else:
            self._parameters[name] = self._as_part(name, nn.Parameter(moved, requires_grad=False))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for name in self._part_dtypes:
            param = self._parameters[name]
            if param is not None:
                self._parameters[name] = self._as_part(name, param)  # pickling forgets the parameter's class


def share_packed(source: PackedModule, *targets: PackedModule) -> None:
    """Make `targets` hold the very parameters of `source`: one weight, stored once."""
    for target in targets:
        if _kind(source) != _kind(target):
            raise ShapeError(f"cannot share a weight of {_kind(source)} with one of {_kind(target)}")
        for name in source.part_names:
            target._parameters[name] = source._parameters[name]


def _kind(item: PackedModule | QuantizedTensor) -> tuple[Scheme, tuple[int, ...]]:
    return item.scheme, item.packed_shape if isinstance(item, PackedModule) else tuple(item.shape)


def _owned(parts: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Tensors with memory of their own: arrays from a file are read-only."""
    return {name: torch.from_numpy(np.array(part, order="C")) for name, part in parts.items()}


def _float_dtype(dtype: torch.dtype, otherwise: torch.dtype = torch.float32) -> torch.dtype:
    return dtype if dtype in FLOAT_DTYPES else otherwise


def _identity(param: nn.Parameter | None) -> tuple[int, int]:
    if param is None:
        return 0, 0
    return param.data_ptr(), 0 if param.is_inference() else param._version
