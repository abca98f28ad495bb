"""Equations of scales against their definition, group by group."""

import numpy as np
import pytest

from kbit.encoders.scale_equations import scale_equations


@pytest.mark.parametrize(("cols", "size"), [(1, 1), (12, 4), (13, 4), (13, 13), (13, 16), (30, 7)])
def test_equations_are_their_definition(cols: int, size: int) -> None:
    draw = np.random.default_rng(cols)
    root = draw.normal(size=(cols, cols + 3))
    unit, aims, hessian = (part.astype(np.float32) for part in (draw.normal(size=(5, cols)), draw.normal(size=(5, cols)), root @ root.T))
    linear, square = scale_equations(unit, aims, hessian, size)
    starts = range(0, cols, size)
    for r in range(5):
        parts = np.zeros((len(starts), cols))
        for g, start in enumerate(starts):
            parts[g, start : start + size] = unit[r, start : start + size]
        np.testing.assert_allclose(linear[r], parts @ hessian.astype(np.float64) @ aims[r], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(square[r], parts @ hessian.astype(np.float64) @ parts.T, rtol=1e-4, atol=1e-4)
