"""Residual levels of a cascade as they are stored: W ≈ Q₁(W) + Q₂(W − Q₁(W)) + …

    weight_residualN            uint8 [bytes]                 packed planes of level N, laid out as `weight`
    weight_residualN_scale      fp16 [tiles, groups, 16]      its scales; groups are those of the first codes
    weight_residualN_codebook   float32 [2^bits]              its levels, where the grid fits them

N counts from 1, up to `MOST_RESIDUAL`. A stack of matrices has a leading dimension in each. A level is a matrix of its own in the same
basis (of rotated inputs where the scheme rotates), and all levels read the same activations.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.parts import MOST_RESIDUAL
from kbit.core.scheme import Scheme
from kbit.grids import is_data_dependent
from kbit.tensor.blocks import BlockLayout
from kbit.tensor.packing import packed_bytes

__all__ = ["RESIDUAL_SUFFIXES", "level_parts", "residual_number", "residual_parts", "residual_shapes"]

Array = npt.NDArray[Any]
Shapes = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

_PARTS = ("", "_scale", "_codebook")
#: names that the arrays of residual levels may have
RESIDUAL_SUFFIXES = tuple(f"weight_residual{level}{part}" for level in range(1, MOST_RESIDUAL + 1) for part in _PARTS)


def residual_shapes(scheme: Scheme, rows: int, cols: int, stack: tuple[int, ...]) -> Shapes:
    """Arrays of the residual levels of matrices [rows, cols]: name → (shape, dtype); `stack` is what comes before each shape."""
    shapes: Shapes = {}
    for number, level in enumerate(scheme.residual_schemes(), 1):
        name = f"weight_residual{number}"
        shapes[name] = ((*stack, packed_bytes(rows, cols, level.bits)), np.dtype(np.uint8))
        shapes[f"{name}_scale"] = (stack + BlockLayout.of(level, rows, cols).scale_shape, np.dtype(np.uint16))
        if is_data_dependent(level):
            shapes[f"{name}_codebook"] = ((*stack, 1 << level.bits), np.dtype(np.float32))
    return shapes


def residual_number(name: str) -> int:
    """Number of the level that an array of `RESIDUAL_SUFFIXES` belongs to."""
    return int(name.removeprefix("weight_residual").partition("_")[0])


def level_parts(parts: Mapping[str, Array], number: int) -> dict[str, Array]:
    """Arrays of residual level `number` of one matrix, by the names that they have in a tensor of its own."""
    name = f"weight_residual{number}"
    return {f"weight{part}": parts[name + part] for part in _PARTS if name + part in parts}


def residual_parts(number: int, level: Mapping[str, Array]) -> dict[str, Array]:
    """The inverse of `level_parts`."""
    return {name.replace("weight", f"weight_residual{number}"): part for name, part in level.items()}
