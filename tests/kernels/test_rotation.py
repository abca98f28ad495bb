"""Products and rows of rotated matrices on every instruction set, against the oracle byte for byte."""

import numpy as np
import pytest

from kbit import native
from kbit.kernels.cpu import PreparedMatrix
from kbit.kernels.reference import matmul_exact, matmul_fast

from .conftest import make

TEXTS = ["int1:g16", "int2:g64", "nf3:g32", "int4:g-1:asym", "int5:g16:e4m3", "kmeans6:g64", "nf7:g64:dq8", "int8:g128"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("shape", [(37, 48), (16, 768), (83, 1024)])
def test_products_and_rows_are_the_oracles(shape: tuple[int, int], text: str, isa: str) -> None:
    quantized = make(shape, f"{text}+rotate")
    assert quantized.rotation
    matrix = PreparedMatrix(quantized)
    book = matrix.integer_codebook()
    for tokens in (1, 3, 9):
        x = np.random.default_rng(tokens).standard_normal((tokens, shape[1])).astype(np.float32)
        exact, fast = matmul_exact(quantized, x), matmul_fast(quantized, x, book)
        for threads in (1, 3):
            assert matrix.matmul(x, mode="exact", threads=threads).tobytes() == exact.tobytes()
            assert matrix.matmul(x, mode="fast", threads=threads).tobytes() == fast.tobytes()
        np.testing.assert_allclose(exact, x @ quantized.dequantize().T, atol=1e-3)
    assert matrix.dequantize().tobytes() == quantized.dequantize().tobytes()
    np.testing.assert_array_equal(matrix.gather_rows(np.array([5, 0, 5])), quantized.dequantize()[[5, 0, 5]])


def test_a_rotation_that_does_not_fit_is_refused() -> None:
    parts = (
        np.zeros(16 * 96 // 2, np.uint8),
        np.zeros(96, np.uint8),
        np.empty(0, np.float32),
        np.empty(0, np.uint8),
        np.zeros(16, np.float32),
    )
    for rotation in (8, 24, 64, -16):
        with pytest.raises(ValueError, match="bad shape"):
            native._kbit.PackedMatrix(16, 96, 4, 32, 0, *parts, rotation=rotation)
    assert native._kbit.PackedMatrix(16, 96, 4, 32, 0, *parts, rotation=32).activation_group() == 32
