import ctypes
import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from kbit.core.errors import DTypeError, NumericsError, ShapeError
from kbit.native import _kbit
from kbit.native.encoding import EncodeOptions, check_codes, encode, pack, packed_bytes, scan, unpack

OPTIONS = EncodeOptions(
    levels=np.arange(-8, 8, dtype=np.float32),
    bits=4,
    group_size=32,
    anchor=-8.0,
    mirrored=False,
    zero_points=False,
    scale_search="absmax",
    scale_dtype="fp16",
)
CODES = np.zeros((3, 5), np.uint8)
PLANES = np.zeros(packed_bytes(3, 5, 4), np.uint8)


def weights(rows=33, cols=100, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_bits_outside_1_to_8(bits):
    for call in (lambda: pack(CODES, bits), lambda: unpack(PLANES, 3, 5, bits), lambda: check_codes(PLANES, 3, 5, bits, 1)):
        with pytest.raises(ShapeError, match="1…8 bits"):
            call()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (5,), (1, 5, 5)])
def test_what_is_no_matrix(shape):
    with pytest.raises(ShapeError, match="a matrix of at least one"):
        pack(np.zeros(shape, np.uint8), 4)
    with pytest.raises(ShapeError, match="a matrix of at least one"):
        encode(np.zeros(shape, np.float32), OPTIONS)
    with pytest.raises(ShapeError, match="a matrix of at least one"):
        scan(np.zeros(shape, np.float32), 32)


@pytest.mark.parametrize(("rows", "cols"), [(-16, -32), (0, 5), (1 << 62, 1 << 62)])
def test_sizes_that_do_not_fit_the_planes(rows, cols):
    with pytest.raises(ShapeError):
        unpack(PLANES, rows, cols, 4)


def test_wrong_dtypes():
    for call in (
        lambda: pack(CODES.astype(np.int8), 4),
        lambda: unpack(PLANES.astype(np.int8), 3, 5, 4),
        lambda: encode(np.zeros((3, 5)), OPTIONS),
        lambda: scan(np.zeros((3, 5), np.int32), 32),
        lambda: encode(weights(), OPTIONS, importance=np.ones(100)),
        lambda: encode(weights(), replace(OPTIONS, levels=np.arange(4.0))),
    ):
        with pytest.raises(DTypeError):
            call()


def test_wrong_sizes():
    for call in (
        lambda: unpack(PLANES[:-1], 3, 5, 4),
        lambda: unpack(PLANES, 3, 5, 4, row_begin=2, row_end=1),
        lambda: unpack(PLANES, 3, 5, 4, row_end=4),
        lambda: unpack(PLANES, 3, 5, 4, row_begin=-1),
        lambda: check_codes(PLANES, 3, 5, 4, 0),
        lambda: encode(weights(), OPTIONS, importance=np.ones(99, np.float32)),
        lambda: encode(weights(), replace(OPTIONS, group_size=0)),
        lambda: encode(weights(), replace(OPTIONS, group_size=101)),
        lambda: scan(weights(), 101),
        lambda: encode(weights(), replace(OPTIONS, levels=np.arange(17, dtype=np.float32))),
        lambda: encode(weights(), replace(OPTIONS, levels=np.arange(0, dtype=np.float32))),
        lambda: scan(weights(), -1),
        lambda: pack(CODES, 4, threads=-1),
        lambda: pack(CODES, 4, threads=257),
    ):
        with pytest.raises(ShapeError):
            call()


def test_values_out_of_range():
    with pytest.raises(NumericsError, match="below 2\\^3, got 8"):
        pack(np.full((2, 2), 8, np.uint8), 3)
    for levels in ([1, 0], [0, np.nan], [0, np.inf]):
        with pytest.raises(NumericsError, match="ascending"):
            encode(weights(), replace(OPTIONS, levels=np.array(levels, np.float32)))


def test_read_only_and_strided_codes():
    codes = np.random.default_rng(0).integers(0, 16, (33, 70)).astype(np.uint8)
    codes.flags.writeable = False
    assert np.array_equal(pack(codes[::-2, ::3], 4), pack(codes[::-2, ::3].copy(), 4))
    planes = pack(codes, 4)
    planes.flags.writeable = False
    assert np.array_equal(unpack(planes, 33, 70, 4), codes)


def test_scan_finds_the_spread():
    values = np.zeros((17, 100), np.float32)
    values[3, 40], values[16, 99] = -5, 3
    values[3, 41] = 4  # the same group of 32 columns
    assert scan(values, 32) == (-1, 5.0)
    assert scan(values, 32, zero_points=True) == (-1, 9.0)
    assert scan(values[:, :41], 32, zero_points=True) == (-1, 5.0)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16])
def test_every_lane_is_looked_at(bad, dtype):
    for index in [*range(37), *range(37, 33 * 37, 41)]:
        values = np.zeros((33, 37), np.float32)
        values.reshape(-1)[index] = bad
        values.reshape(-1)[-1] = bad  # a later one does not win
        data = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == np.uint16 else values.astype(dtype)
        threads = 3 if index % 10 == 0 else 1
        assert scan(data, 16, threads=threads)[0] == index
        assert encode(data, replace(OPTIONS, group_size=16), threads=threads)[0] == index


def test_largest_finite_values_are_finite():
    assert scan(np.full((1, 3), np.finfo(np.float32).max), 3)[0] == -1
    assert scan(np.full((1, 3), 65504, np.float16), 3) == (-1, 65504.0)
    assert scan(np.full((1, 3), 0xFF7F, np.uint16), 3)[0] == -1


@pytest.mark.parametrize("dtype", [np.float16, np.uint16])
def test_every_16_bit_pattern_widens_exactly(dtype):
    bits = np.arange(1 << 16, dtype=np.uint16)
    finite = bits[(bits & 0x7C00) != 0x7C00] if dtype == np.float16 else bits[(bits & 0x7F80) != 0x7F80]
    values = finite.view(np.float16).astype(np.float32) if dtype == np.float16 else (finite.astype(np.uint32) << 16).view(np.float32)
    for count in (len(finite), 8):  # whole vectors and ragged ends
        narrow = finite[: len(finite) // count * count].reshape(-1, count).view(dtype)
        spreads = [scan(narrow[i : i + 1], count)[1] for i in range(0, len(narrow), max(len(narrow) // 500, 1))]
        wide = np.abs(values[: narrow.size].reshape(-1, count)).max(axis=1)
        assert spreads == wide[:: max(len(narrow) // 500, 1)].astype(np.float64).tolist()
    options = replace(OPTIONS, group_size=len(finite), scale_search="mse")
    first, narrow_result = encode(finite.view(dtype)[None], options)
    _, wide_result = encode(values[None], options)
    assert first == -1
    assert np.array_equal(narrow_result.planes, wide_result.planes)
    assert np.array_equal(narrow_result.scale, wide_result.scale)


def test_concurrent_calls_without_the_gil():
    matrices = [weights(200, 256, seed) for seed in range(6)]
    expected = [encode(matrix, OPTIONS, threads=1)[1].planes for matrix in matrices]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            results = pool.map(lambda matrix: encode(matrix, OPTIONS, threads=2)[1].planes, matrices)
            assert all(np.array_equal(result, planes) for result, planes in zip(results, expected, strict=True))


class GuardedMemory:
    """Arrays that end where unreadable memory begins: one byte too far ends the process."""

    def __init__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        self.protect = libc.mprotect
        self.maps = []

    def __call__(self, content):
        size = -(-content.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = mmap.mmap(-1, size + mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        assert self.protect(ctypes.c_void_p(address + size), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        self.maps.append(pages)
        array = np.frombuffer(pages, np.uint8)[size - content.nbytes : size].view(content.dtype).reshape(content.shape)
        array[...] = content
        return array


@pytest.mark.parametrize(("rows", "cols", "group_size"), [(1, 1, 1), (17, 33, 33), (17, 33, 16), (15, 100, 100), (16, 257, 64)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_nothing_is_read_or_written_past_the_end(rows, cols, group_size, dtype):
    guard = GuardedMemory()
    values = guard(weights(rows, cols).astype(dtype))
    importance = guard(np.ones(cols, np.float32))
    tiles, groups = -(-rows // 16), -(-cols // group_size)
    for bits, levels, kind in (
        (4, OPTIONS.levels, 0),
        (8, np.arange(-128, 128, dtype=np.float32), 1),
        (3, np.arange(8.0, dtype=np.float32), 2),
    ):
        planes = guard(np.zeros(packed_bytes(rows, cols, bits), np.uint8))
        scale = guard(np.zeros(tiles * groups * 16 * (2 if kind == 0 else 1), np.uint8))
        supers = guard(np.zeros(tiles if kind == 2 else 0, np.float32))
        zero = guard(np.zeros(tiles * groups * 16 if kind == 2 else 0, np.uint8))
        anchor, flat = float(levels[np.abs(levels).argmax()]), values.reshape(-1).view(np.uint8)
        bad = _kbit.encode(
            flat, 1 if dtype == np.float16 else 0, rows, cols, importance, 0, guard(levels), bits, anchor, False, group_size,
            1, kind, 0.01, planes, scale, supers, zero, 2,
        )  # fmt: skip
        assert bad == -1
        codes = guard(np.zeros(rows * cols, np.uint8))
        _kbit.unpack(planes, rows, cols, bits, 0, rows, codes, 1)
        again = guard(np.zeros_like(planes))
        _kbit.pack(codes, rows, cols, bits, again, 1)
        assert np.array_equal(again, planes)
        assert _kbit.check_codes(planes, rows, cols, bits, 1 << bits, 1)
