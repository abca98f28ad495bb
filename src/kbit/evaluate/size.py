"""True size: every stored bit of a model, by what it is for.

`bpw` counts all that is stored for the quantized weights (codes, scales, zero points, codebooks, and the padding of codes and scales to
whole tiles) over the number of those weights. `bpw_file` counts all bytes of the weight files (also embeddings, head and norms left in
16 bits, and the header) over all parameters of the model, each tied one once. Parts are bits, and add up to the files exactly.

Importing this module needs no torch.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbit.store.accounting import PACKED_PARTS, packed_arrays, packed_bits
from kbit.store.folder import StoredModel, open_model
from kbit.tensor.nested import coarse_scheme, has_fewer_bits
from kbit.tensor.quantized import part_bytes

if TYPE_CHECKING:
    import torch

__all__ = ["SizeReport", "memory_size", "stored_size"]

_TOKENIZER_FILES = re.compile(r"tokenizer.*|vocab\..*|merges\.txt|.*\.model|special_tokens_map\.json|added_tokens\.json|chat_template.*")

#: what a tensor left in 16 bits is, by the first pattern found in its name
_KINDS = (
    ("norm", re.compile(r"norm|(^|[._])ln_|layernorm", re.IGNORECASE)),
    ("head", re.compile(r"lm_head|embed_out|(^|\.)output\.weight")),
    ("embedding", re.compile(r"embed|(^|\.)w[tp]e\.|shared\.weight")),
)


@dataclass(frozen=True, slots=True)
class SizeReport:
    """Where the bits of a model go.

    Attributes:
        parts: part → bits: `PACKED_PARTS`, then ``embedding``, ``head``, ``norm`` and ``other`` (left in 16 bits), and ``header``.
        quantized_weights: weights that are stored as codes.
        parameters: all weights of the model, each tied one once.
        file_bytes: size of the weight files; None for a model in memory.
        tokenizer_bytes: size of the tokenizer beside them.
    """

    parts: Mapping[str, int]
    quantized_weights: int
    parameters: int
    file_bytes: int | None = None
    tokenizer_bytes: int = 0

    @property
    def bpw(self) -> float:
        """Bits per quantized weight, all that is stored for it; of every parameter where none is quantized."""
        if not self.quantized_weights:
            return sum(bits for part, bits in self.parts.items() if part != "header") / self.parameters
        return sum(self.parts.get(part, 0) for part in PACKED_PARTS) / self.quantized_weights

    @property
    def bpw_file(self) -> float | None:
        """Bits of the weight files per parameter of the model."""
        return None if self.file_bytes is None else 8 * self.file_bytes / self.parameters

    def to_json(self) -> dict[str, Any]:
        """JSON object; ``parts_bits`` adds up to 8 · ``file_bytes``."""
        return {
            "bpw": self.bpw,
            "bpw_file": self.bpw_file,
            "file_bytes": self.file_bytes,
            "tokenizer_bytes": self.tokenizer_bytes,
            "quantized_weights": self.quantized_weights,
            "parameters": self.parameters,
            "parts_bits": dict(self.parts),
        }


def stored_size(path: Path | str, bits: int | None = None) -> SizeReport:
    """Size of a stored model, from the headers of its files alone; with `bits`, of the first so many bits of its nested codes and cascades.

    Raises:
        FormatError, LimitError, IntegrityError, StorageError: the folder is not a model (see `kbit.store.open_model`).
    """
    with open_model(path) as stored:
        counted, quantized, parameters = _stored_parts(stored, bits)
        parts = counted | {"header": sum(8 * container.header_bytes for container in stored.containers.values())}
        return SizeReport(
            parts=parts,
            quantized_weights=quantized,
            parameters=parameters,
            file_bytes=stored.size_bytes if bits is None else sum(parts.values()) // 8,
            tokenizer_bytes=sum(f.stat().st_size for f in stored.path.iterdir() if f.is_file() and _TOKENIZER_FILES.fullmatch(f.name)),
        )


def _stored_parts(stored: StoredModel, bits: int | None) -> tuple[Counter[str], int, int]:
    parts: Counter[str] = Counter(dict.fromkeys(PACKED_PARTS, 0))
    quantized = 0
    for name, module in (stored.manifest.modules if stored.manifest else {}).items():
        scheme, arrays = module.scheme, packed_arrays(stored, name)
        if bits is not None and has_fewer_bits(scheme):
            scheme = coarse_scheme(scheme, bits)
            arrays = part_bytes(scheme, module.shape)
        parts.update(packed_bits(scheme, module.shape, arrays))
        quantized += math.prod(module.shape)
    parameters = quantized
    for name in stored.plain_names():
        entry = stored.entry(name)
        parts[_kind(name)] += 8 * entry.nbytes
        parameters += math.prod(entry.shape)
    return parts, quantized, parameters


def memory_size(model: "torch.nn.Module") -> SizeReport:
    """Size of a model in memory: parameters and buffers that it would store, each shared one once."""
    from kbit.nn.packed import PackedModule

    parts: Counter[str] = Counter(dict.fromkeys(PACKED_PARTS, 0))
    quantized = parameters = 0
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        tensors = {name: tensor for name, tensor in _own_tensors(module) if id(tensor) not in seen}
        seen.update(map(id, tensors.values()))
        if isinstance(module, PackedModule) and "weight" in tensors:
            arrays = {name: tensors.pop(name).nbytes for name in module.part_names}
            parts.update(packed_bits(module.scheme, module.packed_shape, arrays))
            quantized += math.prod(module.packed_shape)
        elif isinstance(module, PackedModule):
            tensors = {name: tensor for name, tensor in tensors.items() if name not in module.part_names}
        for name, tensor in tensors.items():
            parts[_kind(f"{prefix}.{name}")] += 8 * tensor.nbytes
            parameters += tensor.numel()
    return SizeReport(parts=parts, quantized_weights=quantized, parameters=parameters + quantized)


def _own_tensors(module: "torch.nn.Module") -> "Iterable[tuple[str, torch.Tensor]]":
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        if name not in module._non_persistent_buffers_set:
            yield name, buffer


def _kind(name: str) -> str:
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "other")
