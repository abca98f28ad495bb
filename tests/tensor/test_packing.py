import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.tensor.packing import PLANE_WIDTHS, check_codes, pack, packed_bytes, plane_bytes, reference_pack, reference_unpack, unpack

ROWS = [1, 15, 16, 17, 33]
COLS = [1, 31, 32, 33, 100, 257]


def random_codes(rows, cols, bits, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << bits, (rows, cols)).astype(np.uint8)


@pytest.mark.parametrize("bits", range(1, 9))
def test_native_equals_reference(bits):
    for rows in ROWS:
        for cols in COLS:
            codes = random_codes(rows, cols, bits)
            expected = reference_pack(codes, bits)
            for threads in (1, 2, 3, 7):
                assert np.array_equal(pack(codes, bits, threads=threads), expected)
                assert np.array_equal(unpack(expected, rows, cols, bits, threads=threads), codes)
            assert np.array_equal(reference_unpack(expected, rows, cols, bits), codes)
            assert expected.size == packed_bytes(rows, cols, bits) == sum(plane_bytes(rows, cols, bits))


def test_where_one_code_lies():
    """ARCHITECTURE.md's words, by hand: row 3, input 32·1 + 21, all bits set."""
    row, col, kblocks = 3, 32 + 21, 2
    codes = np.zeros((16, 64), np.uint8)

    def bits_set(bits):
        codes[row, col] = (1 << bits) - 1
        planes = pack(codes, bits)
        return {(int(i), bit) for i in np.flatnonzero(planes) for bit in range(8) if planes[i] >> bit & 1}

    byte = row * 4 + 21 % 4
    assert bits_set(8) == {(64 * 8 + 64 * 5 + byte, bit) for bit in range(8)}  # 4 inputs a vector
    assert bits_set(4) == {(64 * 4 + 64 * 2 + byte, 4 + bit) for bit in range(4)}  # input 5 of 8: field 1
    assert bits_set(2) == {(64 * 2 + 64 * 1 + byte, 2 + bit) for bit in range(2)}  # input 5 of 16: field 1
    assert bits_set(1) == {(64 + byte, 3)}  # s = 5 sits at bit 3
    second = kblocks * 64 * 2
    assert bits_set(3) == {(64 * 2 + 64 + byte, 2), (64 * 2 + 64 + byte, 3), (second + 64 + byte, 3)}


def test_the_first_plane_holds_the_top_bits():
    codes = np.full((16, 32), 0b1100000, np.uint8)
    planes = pack(codes, 7)
    first, second, third = np.split(planes, np.cumsum(plane_bytes(16, 32, 7))[:-1])
    assert (first == 0xCC).all()
    assert not second.any()
    assert not third.any()
    assert PLANE_WIDTHS[7] == (4, 2, 1)


@pytest.mark.parametrize("bits", range(1, 9))
def test_padding_is_zero(bits):
    full = (1 << bits) - 1
    planes = pack(np.full((17, 33), full, np.uint8), bits)
    assert int(np.unpackbits(planes).sum()) == 17 * 33 * bits


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 70), st.integers(1, 70), st.data())
def test_any_rows_can_be_unpacked(bits, rows, cols, data):
    begin = data.draw(st.integers(0, rows))
    end = data.draw(st.integers(begin, rows))
    codes = random_codes(rows, cols, bits, seed=rows * 71 + cols)
    assert np.array_equal(unpack(pack(codes, bits), rows, cols, bits, row_begin=begin, row_end=end), codes[begin:end])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 40), st.integers(1, 70), st.data())
def test_check_codes_sees_one_code_too_large(bits, rows, cols, data):
    n_levels = data.draw(st.integers(1, 1 << bits))
    codes = random_codes(rows, cols, bits) % n_levels
    assert check_codes(pack(codes.astype(np.uint8), bits), rows, cols, bits, n_levels)
    if n_levels < 1 << bits:
        codes[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))] = n_levels
        for threads in (1, 3):
            assert not check_codes(pack(codes.astype(np.uint8), bits), rows, cols, bits, n_levels, threads=threads)


@pytest.mark.parametrize(("rows", "cols"), [(15, 32), (16, 31), (1, 1), (17, 33)])
def test_check_codes_sees_every_padding_bit(rows, cols):
    for bits in (1, 3, 4, 8):
        planes = np.zeros(packed_bytes(rows, cols, bits), np.uint8)
        used = pack(np.full((rows, cols), (1 << bits) - 1, np.uint8), bits)
        for byte in range(0, planes.size, 3):  # 3 is prime to the 64 bytes of a vector
            for bit in range(8):
                if not used[byte] >> bit & 1:
                    planes[byte] = 1 << bit
                    assert not check_codes(planes, rows, cols, bits, 1 << bits)
                    planes[byte] = 0
                    break  # one a byte
