"""Every stored bit of a packed folder, by what it is for, from the headers of its files."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kbit.core.errors import ModelError
from kbit.store.folder import StoredModel
from kbit.store.manifest import Module

__all__ = ["PACKED_PARTS", "BitCount", "count_bits"]

_PART_OF = {
    "weight": "codes",
    "weight_scale": "scales",
    "weight_super_scale": "scales",
    "weight_zero": "zero_points",
    "weight_codebook": "codebooks",
}
#: parts that `BitCount.bpw` counts
PACKED_PARTS = ("codes", "scales", "zero_points", "codebooks", "padding")


@dataclass(frozen=True, slots=True)
class BitCount:
    """Bits by part: `PACKED_PARTS`, then ``rest_16bit`` (everything that is not encoded) and ``header``.

    Attributes:
        parts: part → bits; they add up to the files.
        quantized_weights: weights stored as codes.
        parameters: all weights of the model, tied ones once.
    """

    parts: Mapping[str, int]
    quantized_weights: int
    parameters: int

    @property
    def bpw(self) -> float:
        """Bits stored for the quantized weights, over their number."""
        return sum(self.parts[part] for part in PACKED_PARTS) / self.quantized_weights

    @property
    def bpw_file(self) -> float:
        """Bits of the weight files, over all parameters."""
        return sum(self.parts.values()) / self.parameters


def count_bits(stored: StoredModel) -> BitCount:
    """Bits of a packed folder.

    Raises:
        ModelError: the folder is not packed.
    """
    if stored.manifest is None or not stored.manifest.modules:
        raise ModelError(f"{stored.path} is not a k-bit model")
    parts = Counter(dict.fromkeys((*PACKED_PARTS, "rest_16bit"), 0))
    quantized = 0
    for name, module in stored.manifest.modules.items():
        for suffix, part in _PART_OF.items():
            if f"{name}.{suffix}" in stored:
                _count(parts, part, suffix, module, 8 * stored.entry(f"{name}.{suffix}").nbytes)
        quantized += math.prod(module.shape)
    parameters = quantized
    for name in stored.plain_names():
        parts["rest_16bit"] += 8 * stored.entry(name).nbytes
        parameters += math.prod(stored.entry(name).shape)
    parts["header"] = sum(8 * container.header_bytes for container in stored.containers.values())
    return BitCount(dict(parts), quantized, parameters)


def _count(parts: Counter[str], part: str, suffix: str, module: Module, stored_bits: int) -> None:
    """What the weights themselves need counts as `part`, what fills up tiles of 16 rows and blocks of 32 inputs as padding."""
    *stack, rows, cols = module.shape
    count = math.prod(stack)
    needed = stored_bits
    if suffix == "weight":
        needed = count * rows * cols * module.scheme.bits
    elif suffix in ("weight_scale", "weight_zero"):
        needed = stored_bits * rows // (-(-rows // 16) * 16)
    parts[part] += needed
    parts["padding"] += stored_bits - needed
