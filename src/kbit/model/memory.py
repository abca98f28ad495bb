"""Memory that a quantization will need."""

import math

from kbit.core.memory import rss_bytes
from kbit.model.architecture import Origin
from kbit.model.folded import Folded
from kbit.model.recipe import PackUnit, Recipe
from kbit.model.weights import PIECE_WEIGHTS

__all__ = ["estimate_bytes"]

#: bytes for a weight at hand: as read, contiguous, and what the encoder derives from it
_PIECE_BYTES = 12
#: bytes a weight for a tensor with parts, which is encoded whole: numbers, costs, their order, and what codes leave
_PARTS_BYTES = 48
#: bytes a weight while a rotation is folded into it: as read, in float32 twice, in float64, and what comes of it
_FOLDED_BYTES = 24


def estimate_bytes(recipe: Recipe) -> int:
    """Peak of resident memory to expect: what the process holds now, and the largest tensor at hand."""
    units = [_unit_bytes(unit) for unit in recipe.packed.values()]
    fused = [_fused_bytes(origin, 4) for origin in recipe.plain.values() if origin.fuse is not None]
    return rss_bytes() + _PIECE_BYTES * PIECE_WEIGHTS + max([*units, *fused, 0])


def _unit_bytes(unit: PackUnit) -> int:
    weights = math.prod(unit.shape)
    item = 4 if unit.origin.dtype == "F32" else 2
    source = _fused_bytes(unit.origin, item) if unit.origin.fuse is not None else item * weights if unit.transposed else 0
    beside = _PARTS_BYTES * weights if unit.scheme.parts else 0
    return source + int(weights * (unit.scheme.weight_bits + 2)) // 8 + beside


def _fused_bytes(origin: Origin, item: int) -> int:
    return (_FOLDED_BYTES if isinstance(origin.fuse, Folded) else 2 * item) * math.prod(origin.shape)
