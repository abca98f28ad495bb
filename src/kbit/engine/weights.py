"""`ModelWeights`: the weights of a stored model by the names that a plan gives them, packed or not.

A name stands for a module (``model.layers.0.mlp.up_proj``), for a parameter that is no module's weight, or for a stack of experts
(``….experts.gate_up_proj``). Headers alone answer what there is and of which shape; payloads are read when they are asked for, each time
anew, so whoever keeps weights keeps them by `WeightInfo.owner`: tied names have one owner.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import DTypeError, ModelError
from kbit.core.scheme import Scheme
from kbit.engine.experts import STACKS, find_experts, read_experts
from kbit.native.memory import HugeMemory
from kbit.store.folder import StoredModel, open_model
from kbit.store.header import near
from kbit.store.parts import part_names
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.nested import coarse_scheme, first_bits, has_fewer_bits
from kbit.tensor.quantized import QuantizedTensor, part_bytes

__all__ = ["DENSE_TAGS", "Dense", "HeldWeights", "ModelWeights", "WeightInfo", "as_float32", "open_weights"]

#: dtype tags of safetensors that a weight left alone may have
DENSE_TAGS = ("BF16", "F16", "F32")

#: a weight that is not packed, as stored
Dense = NDArray[np.float32] | NDArray[np.float16] | BFloat16


@dataclass(frozen=True, slots=True)
class WeightInfo:
    """What the headers say of a weight.

    Attributes:
        name: as it was asked for.
        owner: stored name that holds it; equal for tied names.
        shape: [size], [rows, cols] or [matrices, rows, cols], before packing.
        scheme: how it is packed; None for one that is not.
        dtype: text of the scheme, or the lower-case dtype tag.
        size_bytes: bytes stored.
    """

    name: str
    owner: str
    shape: tuple[int, ...]
    scheme: Scheme | None
    dtype: str
    size_bytes: int


class ModelWeights:
    """Weights of an open model. The model must stay open for as long as weights are asked for.

    Attributes:
        stored: the model: packed by kbit, or a plain checkpoint.
        bits: take so many of the bits of nested codes, or levels of cascades with so many bits together; None for all.
    """

    def __init__(self, stored: StoredModel, bits: int | None = None) -> None:
        """Weights of `stored`.

        Raises:
            ModelError: `bits` of a model without nested codes and cascades.
            SchemeError: more bits than they have, fewer than 2, or no such levels.
        """
        self.stored, self.bits = stored, bits
        if bits is not None:
            self._memory = HugeMemory()
            modules = [] if stored.manifest is None else [one for one in stored.manifest.modules.values() if has_fewer_bits(one.scheme)]
            if not modules:
                raise ModelError(
                    f"{stored.path}: expected nested codes or a cascade to take {bits} bits of, got none: encode with a scheme such as "
                    "nested8 or int2:g64+successive2"
                )
            for module in modules:
                coarse_scheme(module.scheme, bits)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def find(self, name: str) -> WeightInfo | None:
        """What is stored under a name; None for nothing.

        Raises:
            DTypeError: a dtype that the engine does not read.
        """
        return self._packed(name) or self._dense(name) or self._experts(name)

    def info(self, name: str, shape: Sequence[int]) -> WeightInfo:
        """What is stored under a name that must be there, in this shape.

        Raises:
            ModelError: no such weight, or one of another shape.
            DTypeError: a dtype that the engine does not read.
        """
        info = self.find(name)
        if info is None:
            raise ModelError(f"{self.stored.path}: expected {name!r} of shape {list(shape)}, got no such tensor{self._near(name)}")
        if info.shape != tuple(shape):
            raise ModelError(f"{self.stored.path}: {name!r}: expected shape {list(shape)}, got {list(info.shape)}")
        return info

    def load(self, name: str) -> QuantizedTensor | Dense:
        """A weight as it is stored: a matrix [rows, cols], a stack [matrices, rows, cols] or a vector [size].

        Raises:
            ModelError: no such weight.
            FormatError, NumericsError, IntegrityError: contents that no encoder writes, or a file that changed.
        """
        if self._packed(name):
            return self._coarse(self.stored.quantized(name))
        if info := self._dense(name):
            return _as_dense(self.stored.array(info.owner).reshape(info.shape), info.dtype)
        if parts := find_experts(self.stored, name):
            return _as_dense(read_experts(self.stored, parts), parts.dtype.lower())
        raise ModelError(f"{self.stored.path}: expected a weight {name!r}, got no such tensor{self._near(name)}")

    def vector(self, name: str, size: int) -> NDArray[np.float32]:
        """A norm's weight or a bias [size], as float32.

        Raises:
            ModelError: no such vector, or one of another size.
        """
        info = self.info(name, (size,))
        return as_float32(_as_dense(self.stored.array(info.owner).reshape(size), info.dtype))

    def _packed(self, name: str) -> WeightInfo | None:
        manifest = self.stored.manifest
        owner = self.stored.tied.get(name, name)
        if manifest is None or owner not in manifest.modules:
            return None
        module = manifest.modules[owner]
        scheme, size_bytes = module.scheme, sum(self.stored.entry(part).nbytes for part in part_names(owner) if part in self.stored)
        if self.bits is not None and has_fewer_bits(scheme):
            scheme = coarse_scheme(scheme, self.bits)
            size_bytes = sum(part_bytes(scheme, module.shape).values())
        return WeightInfo(name, owner, module.shape, scheme, scheme.text, size_bytes)

    def _coarse(self, weight: QuantizedTensor) -> QuantizedTensor:
        """The bits that are wanted, where the codes are read from."""
        if self.bits is None or not has_fewer_bits(weight.scheme):
            return weight
        coarse = first_bits(weight, self.bits)
        planes = self._memory.empty(coarse.weight.nbytes)
        planes[:] = coarse.weight
        return replace(coarse, weight=planes)

    def _dense(self, name: str) -> WeightInfo | None:
        for tensor in (f"{name}.weight", name):
            owner = self.stored.tied.get(tensor, tensor)
            if owner in self.stored:
                entry = self.stored.entry(owner)
                shape = _logical(name, entry.shape, module=tensor != name)
                return WeightInfo(name, owner, shape, None, self._dtype(owner, entry.dtype), entry.nbytes)
        return None

    def _experts(self, name: str) -> WeightInfo | None:
        parts = find_experts(self.stored, name)
        if parts is None:
            return None
        tag = self._dtype(parts.tensors[0][0], parts.dtype)
        return WeightInfo(name, name, parts.shape, None, tag, math.prod(parts.shape) * (4 if tag == "f32" else 2))

    def _near(self, name: str) -> str:
        return near(name, (known.removesuffix(".weight") for known in self.stored.names()))

    def _dtype(self, tensor: str, tag: str) -> str:
        if tag not in DENSE_TAGS:
            raise DTypeError(f"{self.stored.path}: {tensor!r}: expected {', '.join(DENSE_TAGS)} or a packed module, got {tag}")
        return tag.lower()


class HeldWeights(ModelWeights):
    """The same, each payload read once: for programs that share tables. `forget` when they are made.

    Args:
        stored, bits: as for `ModelWeights`.
    """

    def __init__(self, stored: StoredModel, bits: int | None = None) -> None:
        super().__init__(stored, bits)
        self._held: dict[str, QuantizedTensor | Dense] = {}

    def load(self, name: str) -> QuantizedTensor | Dense:
        """See `ModelWeights.load`."""
        info = self.find(name)
        owner = name if info is None else info.owner
        if owner not in self._held:
            self._held[owner] = super().load(name)
        return self._held[owner]

    def forget(self) -> None:
        """Hold nothing any more."""
        self._held.clear()


@contextmanager
def open_weights(path: str | Path, *, mapped: bool, bits: int | None = None) -> Iterator[ModelWeights]:
    """The weights of a model's folder, open inside the block: read straight into huge pages, or `mapped`, the file's own pages.

    With `bits`, so many of each nested code or cascade are kept in memory, and the file's are read in passing.

    Raises:
        FormatError, LimitError, IntegrityError, StorageError: as `open_model`.
    """
    size_bytes = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    memory = None if mapped or bits is not None else HugeMemory(size_bytes + size_bytes // 64)
    with open_model(path, memory=memory, mapped=mapped) as stored:
        yield ModelWeights(stored, bits)


def _logical(name: str, shape: tuple[int, ...], *, module: bool) -> tuple[int, ...]:
    """Shape as a vector, a matrix or a stack.

    A convolution is a matrix with a row for each output. Parameters by themselves may have a 1 in front that they are broadcast by: it is
    dropped, but for a stack of one expert.
    """
    if module:
        return (shape[0], math.prod(shape[1:])) if len(shape) == 4 else shape
    broadcast = len(shape) in (2, 3) and shape[0] == 1 and name.rpartition(".")[2] not in STACKS
    return shape[1:] if broadcast else shape


def as_float32(weight: QuantizedTensor | Dense) -> NDArray[np.float32]:
    """Any weight as numbers in float32; one that is float32 already as it is."""
    if isinstance(weight, QuantizedTensor):
        return np.asarray(weight.dequantize(), np.float32)
    return weight.to_float32() if isinstance(weight, BFloat16) else np.asarray(weight, np.float32)


def _as_dense(array: NDArray[Any], dtype: str) -> Dense:
    return BFloat16(array) if dtype == "bf16" else array
