import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import DTypeError
from kbit.tensor.bfloat16 import BFloat16


def test_known_values():
    values = np.array([1.0, -2.0, 0.0, -0.0, np.inf, -np.inf], np.float32)
    bits = np.array([0x3F80, 0xC000, 0x0000, 0x8000, 0x7F80, 0xFF80], np.uint16)
    assert np.array_equal(BFloat16.from_float32(values).bits, bits)
    assert np.array_equal(BFloat16(bits).to_float32().view(np.uint32), values.view(np.uint32))


def test_ties_go_to_even_and_nan_stays_nan():
    ties = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    bits = BFloat16.from_float32(ties).bits
    assert bits[:4].tolist() == [0x3F80, 0x3F82, 0x3F81, 0x7F80]
    assert np.isnan(BFloat16(bits[4:]).to_float32()).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=50))
def test_round_trip_of_every_bit_pattern(patterns):
    bits = np.array(patterns, np.uint16)
    finite = (bits & 0x7F80) != 0x7F80
    assert np.array_equal(BFloat16.from_float32(BFloat16(bits).to_float32()).bits[finite], bits[finite])


def test_strided_and_other_byte_order():
    bits = np.arange(12, dtype=np.uint16).reshape(3, 4) << 8
    assert np.array_equal(BFloat16(bits.T.astype(">u2")).to_float32(), BFloat16(bits).to_float32().T)
    assert BFloat16(bits)[1].shape == (4,)


@pytest.mark.parametrize("wrong", [np.zeros(3, np.int16), np.zeros(3, np.float16), [1, 2]])
def test_only_uint16_holds_bits(wrong):
    with pytest.raises(DTypeError, match="uint16"):
        BFloat16(wrong)


def test_only_float32_is_rounded():
    with pytest.raises(DTypeError, match="float32"):
        BFloat16.from_float32(np.zeros(3))
