"""The equations of a row's scales under a Hessian, its codes being as they are.

A row w ≈ Σ_g s_g v_g, v_g the levels of group g and 0 elsewhere, loses (w − Σ_g s_g v_g) H (…)ᵀ, which is least where

    Σ_h (v_g H v_hᵀ) s_h = v_g H wᵀ        for every group g

Rows are taken together, and of v_g H only what lies right of g is needed, so this is half a matrix product of all weights with H.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ROWS_AT_ONCE", "scale_equations"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: rows whose systems are made and solved together
ROWS_AT_ONCE = 256


def scale_equations(unit: Float32, aims: Float32, hessian: Float32, group_size: int) -> tuple[Float64, Float64]:
    """(v_g H wᵀ [rows, groups], v_g H v_hᵀ [rows, groups, groups]) of some rows.

    Args:
        unit: what codes say in units of their scale, [rows, cols].
        aims: w, what they are to make up, [rows, cols].
        hessian: H [cols, cols], symmetric.
        group_size: columns that share a scale.
    """
    starts = np.arange(0, unit.shape[1], group_size)
    linear = np.add.reduceat((aims @ hessian) * unit, starts, axis=1, dtype=np.float64)
    square = np.empty((len(unit), len(starts), len(starts)))
    for index, start in enumerate(starts):
        part = slice(start, start + group_size)
        pulled = unit[:, part] @ hessian[part, start:]
        pulled *= unit[:, start:]
        square[:, index, index:] = np.add.reduceat(pulled, starts[index:] - start, axis=1, dtype=np.float64)
        square[:, index:, index] = square[:, index, index:]
    return linear, square
