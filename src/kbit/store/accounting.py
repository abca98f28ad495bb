"""Every stored bit of a packed weight, and of a packed folder from the headers of its files, by what it is for."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kbit.core.errors import ModelError
from kbit.core.scheme import Scheme
from kbit.store.folder import StoredModel
from kbit.tensor.parts import PART_SUFFIXES, part_label
from kbit.tensor.residual import RESIDUAL_SUFFIXES, residual_number

__all__ = ["PACKED_PARTS", "BitCount", "count_bits", "packed_arrays", "packed_bits"]

#: array of a packed weight → the part it counts as
_PART_OF = {
    "weight": "codes",
    "weight_scale": "scales",
    "weight_super_scale": "scales",
    "weight_zero": "zero_points",
    "weight_codebook": "codebooks",
    "weight_mask": "mask",
    **{name: {"scale": "scales", "codebook": "codebooks"}.get(name.rpartition("_")[2], "codes") for name in RESIDUAL_SUFFIXES},
    **{name: part_label(name) for name in PART_SUFFIXES},
}
#: parts that `BitCount.bpw` counts
PACKED_PARTS = ("codes", "scales", "zero_points", "codebooks", "padding", "mask", "outliers", "low_rank")


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
        parts.update(packed_bits(module.scheme, module.shape, packed_arrays(stored, name)))
        quantized += math.prod(module.shape)
    parameters = quantized
    for name in stored.plain_names():
        parts["rest_16bit"] += 8 * stored.entry(name).nbytes
        parameters += math.prod(stored.entry(name).shape)
    parts["header"] = sum(8 * container.header_bytes for container in stored.containers.values())
    return BitCount(dict(parts), quantized, parameters)


def packed_arrays(stored: StoredModel, name: str) -> dict[str, int]:
    """Bytes of each array that is stored for the packed weight of module `name`."""
    return {suffix: stored.entry(f"{name}.{suffix}").nbytes for suffix in _PART_OF if f"{name}.{suffix}" in stored}


def packed_bits(scheme: Scheme, shape: tuple[int, ...], arrays: Mapping[str, int]) -> Counter[str]:
    """Bits of one packed weight by part, of `PACKED_PARTS`.

    What the weights themselves need counts as its part, what fills up tiles of 16 rows and blocks of 32 inputs as padding.

    Args:
        scheme: how it is encoded.
        shape: (rows, cols) or (matrices, rows, cols).
        arrays: bytes stored for it, by array.
    """
    *stack, rows, cols = shape
    parts: Counter[str] = Counter()
    for array, size_bytes in arrays.items():
        stored_bits = needed = 8 * size_bytes
        if array == "weight":
            needed = math.prod(stack) * rows * scheme.spec.kept(-(-cols // scheme.dims)) * scheme.bits
        elif _PART_OF[array] == "codes":
            needed = math.prod(stack) * rows * cols * scheme.spec.residual[residual_number(array) - 1]
        elif _PART_OF[array] in ("scales", "zero_points") and array != "weight_super_scale":  # padding rows hold 0
            needed = stored_bits * rows // (-(-rows // 16) * 16)
        parts[_PART_OF[array]] += needed
        parts["padding"] += stored_bits - needed
    return parts
