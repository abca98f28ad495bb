"""Trellis codes: the path through the states of a shift register whose levels lie nearest to a row, by the Viterbi algorithm.

    scale   for each group the one of a few tries, refined by least squares, whose best path has the least (importance-weighted) error
    path    the best of all paths of the row for the scales as stored (Viterbi 1967; Marcellin and Fischer 1990)

Errors that are made up for: `kbit.encoders.trellis_gptq`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.scheme import Scheme
from kbit.native import trellis as native
from kbit.native.encoding import EncodedMatrix
from kbit.tensor.blocks import BlockLayout, tiles_of_rows
from kbit.tensor.scales import SCALE_DTYPES, round_scale
from kbit.tensor.trellis import pack_steps

__all__ = ["TrellisRecipe", "Trials", "encode_trellis", "free_trials"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trials:
    """Scales to try for a group, in parts of the one that gives the levels the spread of its weights; and refits of the best."""

    parts: tuple[float, ...]
    refits: int = 0


def free_trials(bits: int) -> Trials:
    """Scales to try for weights as they are: levels of many bits lie dense, and lose most by the weights beyond them."""
    match bits:
        case 1 | 2:
            return Trials((1.0, 0.86, 0.93, 1.08, 1.17), 2)
        case 3:
            return Trials((1.0, 0.9, 1.1, 1.2, 1.3), 2)
        case _:
            return Trials((1.0, 1.15, 1.3, 1.45), 2)


@dataclass(frozen=True, slots=True)
class TrellisRecipe:
    """What encoding one matrix needs to know."""

    code: native.TrellisCode
    scale_dtype: str
    super_scale: float
    threads: int

    def scales(self, weights: Float32, group_size: int, importance: Float32 | None, trials: Trials) -> Float32:
        """Searched scales as they are stored, [rows, groups]."""
        _, value = native.scales(
            self.code,
            weights,
            group_size,
            trials.parts,
            trials.refits,
            importance=importance,
            scale_dtype=self.scale_dtype,
            super_scale=self.super_scale,
            threads=self.threads,
        )
        return value

    def stored(self, value: Float32) -> tuple[Array, Float32]:
        """(scales as stored [tiles, groups, 16], what they mean [rows, groups]) nearest to `value`."""
        unit = None if self.scale_dtype == "fp16" else np.array(self.super_scale, np.float32)
        stored, rounded = round_scale(value, unit, self.scale_dtype)
        return tiles_of_rows(stored.astype(SCALE_DTYPES[self.scale_dtype])), rounded


def encode_trellis(
    weights: Float32, scheme: Scheme, levels: Float32, *, importance: Float32 | None = None, super_scale: float = 0.0, threads: int = 0
) -> EncodedMatrix:
    """Rows [rows, cols] by their best paths.

    Args:
        weights: finite float32, contiguous.
        scheme: a trellis, its group no longer than a row.
        levels: its sixty-four levels.
        importance: weights of the squared error, [cols] or [rows, cols].
        super_scale: what e4m3 scales are multiples of.
        threads: 0 for the default; the result does not depend on it.
    """
    recipe = TrellisRecipe(native.TrellisCode(scheme.bits, levels), scheme.scale_dtype, super_scale, threads)
    group_size = BlockLayout.of(scheme, *weights.shape).group_size
    value = recipe.scales(weights, group_size, importance, free_trials(scheme.bits))
    steps = native.path(recipe.code, weights, group_size, value, importance=importance, threads=threads)
    scale, _ = recipe.stored(value)
    return EncodedMatrix(pack_steps(steps, scheme.bits), scale, None, None)
