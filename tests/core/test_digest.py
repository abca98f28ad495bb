import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kbit.core.digest import digest_array, digest_bytes, digest_file, digest_json
from kbit.core.errors import DTypeError, FormatError, StorageError

DTYPES = ["bool", "int8", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64", "complex64", "complex128"]


def test_bytes_and_files_are_plain_sha256(tmp_path):
    # FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_bytes(b"abc") == digest_bytes(bytearray(b"abc")) == digest_bytes(memoryview(b"xabc")[1:]) == known
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_file(tmp_path / "abc") == known
    data = bytes(range(256)) * 5000
    (tmp_path / "long").write_bytes(data)
    assert digest_file(str(tmp_path / "long")) == hashlib.sha256(data).hexdigest()


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot open"):
        digest_file(tmp_path / "missing")
    with pytest.raises(FormatError, match="expected a regular file"):
        digest_file("/dev/zero")


def test_json_is_hashed_in_one_form():
    expected = hashlib.sha256(rb'{"a":[1,2.5,null,true],"b":"\u00e4"}').hexdigest()
    assert digest_json({"b": "ä", "a": [1, 2.5, None, True]}) == expected
    assert digest_json({"a": (1, 2.5, None, True), "b": "ä"}) == expected


def test_different_json_values_differ():
    values = [1, 1.0, True, "1", None, [], {}, [1], ["1"], {"1": 1}, "", 0, -0.0, 0.0, [[], []], [[[]]], "ä", "a\u0308"]
    assert len({digest_json(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", [math.nan, [math.inf], {1: 2}, {"a": {2: 3}}, b"x", np.float32(1), {1}], ids=repr)
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(FormatError, match="expected a value that JSON can hold: "):
        digest_json(value)


def test_deep_and_endless_values_are_refused():
    deep, endless = [], {}
    for _ in range(100_000):
        deep = [deep]
    endless["self"] = endless
    for value in (deep, endless):
        with pytest.raises(FormatError, match="expected a value that JSON can hold: "):
            digest_json(value)
    while deep:  # or its end would recurse
        deep = deep.pop()


def test_digest_of_an_array_is_of_dtype_shape_and_little_endian_bytes():
    array = np.array([[1, 2, 3], [4, 5, 6]], np.int16)
    assert digest_array(array) == hashlib.sha256(b"i2[2, 3]\n" + bytes([1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0])).hexdigest()


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(DTYPES))
def test_layout_in_memory_does_not_count(data, dtype):
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)))
    digest = digest_array(array)
    assert digest_array(array.copy(order="F")) == digest
    assert digest_array(array.astype(array.dtype.newbyteorder(">"))) == digest
    wide = np.repeat(array[..., None], 2, axis=-1)
    assert digest_array(wide[..., 0]) == digest
    array.flags.writeable = False
    assert digest_array(array) == digest


def test_dtype_shape_order_and_every_bit_count():
    zeros = [np.zeros(shape, dtype) for dtype in DTYPES for shape in ((), (0,), (1,), (4,), (2, 2), (4, 1), (0, 4), (1, 4))]
    arrays = [*zeros, np.array([0.0, -0.0]), np.array([-0.0, 0.0]), np.array([1, 2]), np.array([2, 1])]
    assert len({digest_array(array) for array in arrays}) == len(arrays)


@pytest.mark.parametrize("dtype", ["O", "U3", "S2", "M8[s]", "m8[s]", "V4", "longdouble", [("a", "i4")]], ids=str)
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(DTypeError, match="expected a boolean, integer, float or complex array"):
        digest_array(np.empty(2, dtype))
