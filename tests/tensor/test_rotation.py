"""The rotation against its matrix, and the native transform against the readable one, byte for byte."""

from collections.abc import Iterator

import numpy as np
import pytest

from kbit import native
from kbit.core.errors import DTypeError, ShapeError
from kbit.core.rotation import rotation_block
from kbit.core.scheme import Scheme
from kbit.native import rotation as native_rotation
from kbit.tensor.blocks import BlockLayout
from kbit.tensor.rotation import (
    input_signs,
    reference_restore,
    reference_rotate,
    restore_rows,
    rotate_diagonal,
    rotate_moments,
    rotate_rows,
)

COLS = [16, 32, 48, 64, 80, 128, 256, 512, 768, 1024, 2048, 2304, 4096, 5632, 8192]


@pytest.fixture(params=native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    native.set_isa(request.param)
    yield request.param
    native.set_isa(before)


def rows(count: int, cols: int) -> np.ndarray:
    return np.random.default_rng(count + cols).standard_normal((count, cols)).astype(np.float32)


def matrix(cols: int) -> np.ndarray:
    """Q in float64, from what the words say: Kronecker powers of [[1, 1], [1, −1]], and a hash in integers of Python."""
    block = rotation_block(cols)
    hadamard = np.ones((1, 1))
    while len(hadamard) < block:
        hadamard = np.kron(np.array([[1, 1], [1, -1]]), hadamard)
    q = np.kron(np.eye(cols // block), hadamard / np.sqrt(block))
    return q * np.array([sign(index) for index in range(cols)])


def sign(index: int) -> int:
    h = index
    h ^= h >> 16
    h = h * 0x85EBCA6B % 2**32
    h ^= h >> 13
    h = h * 0xC2B2AE35 % 2**32
    h ^= h >> 16
    return -1 if h >= 2**31 else 1


@pytest.mark.parametrize("cols", [16, 48, 128, 768])
def test_the_rotation_is_its_matrix_and_orthogonal(cols: int) -> None:
    q, x = matrix(cols), rows(7, cols)
    np.testing.assert_allclose(q @ q.T, np.eye(cols), atol=1e-12)
    np.testing.assert_allclose(reference_rotate(x), x @ q.T, atol=2e-6)
    np.testing.assert_allclose(reference_restore(x), x @ q, atol=2e-6)
    moments = (x.T @ x).astype(np.float64)
    np.testing.assert_allclose(rotate_moments(moments), q @ moments @ q.T, atol=2e-5)
    np.testing.assert_allclose(rotate_moments(np.stack([moments, 2 * moments]))[1], 2 * q @ moments @ q.T, atol=4e-5)


def test_signs_are_random_enough() -> None:
    signs = input_signs(1 << 14)
    assert signs.tolist() == [sign(index) for index in range(1 << 14)]
    assert abs(signs.mean()) < 0.03
    assert max(abs((signs[:-lag] * signs[lag:]).mean()) for lag in (1, 2, 3, 4, 8, 16, 64, 256)) < 0.03


@pytest.mark.parametrize("cols", COLS)
def test_native_is_the_reference(cols: int, isa: str) -> None:
    for count in (1, 5, 70):
        x = rows(count, cols)
        x[0, :3] = (np.float32(3e38), np.float32(1e-42), -0.0)
        turned, back = reference_rotate(x), reference_restore(x)
        for threads in (1, 3):
            assert rotate_rows(x, threads=threads).tobytes() == turned.tobytes()
            assert restore_rows(x, threads=threads).tobytes() == back.tobytes()


@pytest.mark.parametrize("cols", COLS)
def test_the_way_back(cols: int) -> None:
    x = rows(3, cols)
    np.testing.assert_allclose(restore_rows(rotate_rows(x)), x, atol=4e-6)
    np.testing.assert_allclose((rotate_rows(x).astype(np.float64) ** 2).sum(-1), (x.astype(np.float64) ** 2).sum(-1), rtol=1e-5)


def test_outliers_are_spread() -> None:
    x = np.zeros((1, 1024), np.float32)
    x[0, 77] = 32
    np.testing.assert_array_equal(np.abs(rotate_rows(x)), np.ones((1, 1024), np.float32))


def test_any_strides_and_stacks() -> None:
    x = rows(6, 64)
    for view in (x[::2], np.asfortranarray(x), x.astype(np.float64), x.astype(">f4")):
        np.testing.assert_array_equal(rotate_rows(view), rotate_rows(np.ascontiguousarray(view, np.float32)))
    np.testing.assert_array_equal(rotate_rows(x.reshape(2, 3, 64)), rotate_rows(x).reshape(2, 3, 64))
    assert rotate_rows(np.empty((0, 64), np.float32)).shape == (0, 64)


def test_what_cannot_be_rotated_is_refused() -> None:
    with pytest.raises(ShapeError, match="multiple of 16, which can be rotated, got 40"):
        rotate_rows(rows(2, 40))
    with pytest.raises(ShapeError, match="multiple of 16"):
        reference_restore(rows(2, 8))
    for block in (0, 8, 24, 128, -16):
        with pytest.raises(ShapeError, match="expected a power of two"):
            native_rotation.rotate_rows(rows(2, 64), block)
    with pytest.raises(DTypeError, match="expected float32 rows, got float64"):
        native_rotation.rotate_rows(rows(2, 64).astype(np.float64), 64)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="expected rows"):
        native_rotation.rotate_rows(rows(2, 64)[0], 64)
    with pytest.raises(ShapeError, match="rows of a multiple of 16 columns to rotate, got 40"):
        BlockLayout.of(Scheme.parse("int4:g16+rotate"), 3, 40)


def test_a_diagonal_becomes_the_mean_of_each_block() -> None:
    for cols in (48, 96, 256):
        diagonal = np.random.default_rng(cols).random((3, cols)).astype(np.float32)
        whole = rotate_moments(diagonal[..., None] * np.eye(cols, dtype=np.float32))
        np.testing.assert_allclose(rotate_diagonal(diagonal), np.diagonal(whole, axis1=-2, axis2=-1), rtol=1e-5)
