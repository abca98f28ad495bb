import numpy as np
import pytest

from kbit.core.errors import DTypeError, NumericsError, ShapeError
from kbit.encoders.inputs import as_float32, as_importance, as_weights, native_rows
from kbit.tensor.bfloat16 import BFloat16


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ">f4", ">f2"])
def test_floats_pass_unchanged(dtype):
    weights = np.arange(6).reshape(2, 3).astype(dtype).T
    assert as_weights(weights, "w") is weights
    native = native_rows(weights)
    assert native.flags.c_contiguous
    assert native.dtype.isnative
    assert np.array_equal(native, weights)


def test_bfloat16_is_its_bits():
    bits = np.array([[0x3F80]], np.uint16)
    assert as_weights(BFloat16(bits), "w") is bits
    assert as_float32(bits)[0, 0] == 1.0


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.zeros((2, 2), np.int32), np.zeros((2, 2), np.uint16), [[1.0]], None])
def test_other_dtypes_are_refused_by_name(wrong):
    with pytest.raises(DTypeError, match=r"layer\.0: expected an array of float32 or float16"):
        as_weights(wrong, "layer.0")


def test_misaligned_memory_is_copied():
    raw = np.zeros(4 * 6 + 1, np.uint8)
    misaligned = raw[1:].view(np.float32).reshape(2, 3)
    misaligned[...] = np.arange(6).reshape(2, 3)
    native = native_rows(misaligned)
    assert native.flags.aligned
    assert np.array_equal(native, misaligned)


def test_aligned_memory_is_not():
    weights = np.zeros((2, 3), np.float32)
    weights.flags.writeable = False
    assert np.shares_memory(native_rows(weights), weights)


def test_importance_shapes():
    assert as_importance(None, (2, 3), "w") is None
    assert as_importance(np.ones(3), (2, 3), "w").shape == (3,)
    assert as_importance(np.ones((2, 3), np.float16), (2, 3), "w").dtype == np.float32
    assert as_importance(np.ones((2, 1)), (2, 3), "w").shape == (2, 3)
    assert as_importance(np.ones((4, 1, 3)), (4, 2, 3), "w").shape == (4, 2, 3)
    for shape in [(2,), (3, 2), (1, 2, 3)]:
        with pytest.raises(ShapeError, match="w: expected importance"):
            as_importance(np.ones(shape), (2, 3), "w")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 1e300])
def test_importance_that_weighs_nothing(bad):
    with pytest.raises(NumericsError, match="w: expected importance that is finite"):
        as_importance(np.array([1.0, bad]), (2, 2), "w")
    with pytest.raises(DTypeError, match="importance as a floating-point array"):
        as_importance(np.ones(2, np.int64), (2, 2), "w")
