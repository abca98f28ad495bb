"""The transform in float64 against the matrix that it is, and against the rotation that inputs go through."""

import numpy as np
import pytest

from kbit.core.rotation import rotation_block
from kbit.folding.turn import turn
from kbit.tensor.rotation import input_signs, rotate_rows


def matrix_of(period: int) -> np.ndarray:
    """blockdiag(H)·diag(signs) by Sylvester's doubling."""
    block, hadamard = rotation_block(period), np.ones((1, 1))
    while len(hadamard) < block:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    return np.kron(np.eye(period // block), hadamard / np.sqrt(block)) * input_signs(period)


@pytest.mark.parametrize(("cols", "period"), [(16, 16), (64, 16), (48, 48), (96, 48), (160, 80), (512, 512), (768, 768), (768, 64)])
def test_is_the_matrix_on_every_stretch(cols: int, period: int) -> None:
    x = np.random.default_rng(0).standard_normal((7, cols))
    before = x.copy()
    expected = x @ np.kron(np.eye(cols // period), matrix_of(period)).T
    np.testing.assert_allclose(turn(x, period), expected, rtol=0, atol=1e-13)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("cols", [16, 48, 80, 256, 1280])
def test_is_what_inputs_go_through(cols: int) -> None:
    x = np.random.default_rng(1).standard_normal((5, cols)).astype(np.float32)
    np.testing.assert_allclose(rotate_rows(x), turn(x, cols), rtol=0, atol=1e-5)
