"""From a scheme to the levels of its grid.

The levels of fixed grids are part of the file format: a packed file names its scheme and readers recompute them, so they must
never change, not by one bit. Fitted grids depend on the tensor and are stored with it.

A new data type is a file beside this one, a line in `GRID_TABLE`, and its name and bits in `kbit.core.data_types.GRIDS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import SchemeError
from kbit.core.registry import Registry
from kbit.core.scheme import Scheme
from kbit.grids.dynamic import dynamic_levels
from kbit.grids.floating import float_levels
from kbit.grids.gaussian_vectors import gaussian_codebook
from kbit.grids.kmeans import kmeans_levels
from kbit.grids.linear import linear_levels
from kbit.grids.log import log_levels
from kbit.grids.nested import nested_levels
from kbit.grids.normal import normal_levels
from kbit.grids.quantile import quantile_levels
from kbit.grids.sample import Float64, WeightSample
from kbit.grids.trellis import trellis_levels

__all__ = ["GRID_TABLE", "FittedGrid", "FittedVectors", "FixedGrid", "FixedVectors", "is_data_dependent", "levels_for"]


@dataclass(frozen=True, slots=True)
class FixedGrid:
    """A data type whose levels follow from the scheme alone. The function may return them in any order, and twice."""

    levels: Callable[[Scheme], Float64]


@dataclass(frozen=True, slots=True)
class FittedGrid:
    """A data type whose levels are fitted to a tensor. The function may return them in any order, and twice."""

    levels: Callable[[Scheme, WeightSample], Float64]


@dataclass(frozen=True, slots=True)
class FixedVectors:
    """A data type whose codes stand for several weights by a codebook [2^bits, dims] that follows from bits and dims."""

    codebook: Callable[[int, int], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class FittedVectors:
    """The same with a codebook that is fitted to a tensor together with its scales (`kbit.encoders.vectors`)."""


Grid = FixedGrid | FittedGrid | FixedVectors | FittedVectors

#: grid name → data type; the names are those of `kbit.core.data_types.GRIDS`
GRID_TABLE: Registry[Grid] = Registry("grid")
GRID_TABLE.register("int")(FixedGrid(linear_levels))
GRID_TABLE.register("float")(FixedGrid(float_levels))
GRID_TABLE.register("log")(FixedGrid(log_levels))
GRID_TABLE.register("nf")(FixedGrid(normal_levels))
GRID_TABLE.register("quantile")(FittedGrid(quantile_levels))
GRID_TABLE.register("dynamic")(FixedGrid(dynamic_levels))
GRID_TABLE.register("kmeans")(FittedGrid(kmeans_levels))
GRID_TABLE.register("nested")(FittedGrid(nested_levels))
GRID_TABLE.register("trellis")(FixedGrid(trellis_levels))
GRID_TABLE.register("vq")(FittedVectors())
GRID_TABLE.register("nvq")(FixedVectors(gaussian_codebook))


def is_data_dependent(scheme: Scheme) -> bool:
    """True if the levels come from a sample of the tensor and are stored with it.

    Raises:
        SchemeError: the scheme leaves the tensor in 16 bits and has no grid.
    """
    return isinstance(_grid_of(scheme), FittedGrid | FittedVectors)


def levels_for(
    scheme: Scheme, sample: npt.NDArray[Any] | None = None, importance: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.float32]:
    """Levels of a scheme's grid: float32 [n], strictly ascending, finite, 1 <= n <= 2^bits (64 for a trellis), a new array; of ``nvq``
    [2^bits, dims].

    Units are the grid's own: int4 is −8…7 (0…15 if asymmetric), float4e2 reaches 6, all others 1.

    Args:
        scheme: the recipe; only its grid, bits, detail and symmetry matter here.
        sample: weights divided by the largest magnitude of their group, any floating dtype and shape. Better still divided by
            the signed element of largest magnitude, as signed scales do. Needed by fitted grids, ignored by fixed ones.
        importance: weight of each element in the fit, of the sample's shape; all alike if None.

    Raises:
        SchemeError: the scheme has no grid, a fitted grid got no sample, or its codebook is fitted together with scales (``vq``).
        DTypeError, ShapeError, NumericsError: a sample or importance that is not as stated.
    """
    grid = _grid_of(scheme)
    if isinstance(grid, FixedGrid):
        return _ascending(grid.levels(scheme))
    if isinstance(grid, FixedVectors):
        return grid.codebook(scheme.bits, scheme.dims)
    if isinstance(grid, FittedVectors):
        raise SchemeError(f"the codebook of {scheme.grid!r} is fitted together with scales: kbit.encoders.vectors.fit_codebook does it")
    if sample is None:
        raise SchemeError(f"grid {scheme.grid!r} is fitted to the tensor: expected a sample of normalised weights, got None")
    return _ascending(grid.levels(scheme, WeightSample.of(sample, importance)))


def _grid_of(scheme: Scheme) -> Grid:
    if scheme.is_none:
        raise SchemeError("expected a scheme of 1…8 bits, got '16', which leaves the tensor as it is and has no levels")
    return GRID_TABLE[scheme.grid]


def _ascending(levels: Float64) -> npt.NDArray[np.float32]:
    return np.unique(levels.astype(np.float32)) + np.float32(0)  # −0 becomes +0
