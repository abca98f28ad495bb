"""The stream of a trellis against its own words: a row's steps as one long number, and windows cut out of it."""

import numpy as np
import pytest

from kbit.core.errors import FormatError
from kbit.core.scheme import Scheme
from kbit.grids import levels_for
from kbit.native.encoding import packed_bytes
from kbit.tensor.quantized import QuantizedTensor, part_shapes
from kbit.tensor.trellis import MULTIPLIERS, pack_steps, padding_is_zero, state_bits, unpack_indices, unpack_steps

SHAPES = [(1, 1), (15, 31), (16, 32), (17, 33), (33, 100), (48, 257)]


def random_steps(shape: tuple[int, int], bits: int) -> np.ndarray:
    return np.random.default_rng(bits).integers(0, 1 << bits, shape, np.uint8)


def test_multipliers_never_change() -> None:
    assert MULTIPLIERS == {1: 7472, 2: 3824, 3: 2160, 4: 976}
    assert {bits: state_bits(bits) for bits in MULTIPLIERS} == {1: 10, 2: 10, 3: 10, 4: 10}


@pytest.mark.parametrize("bits", range(1, 5))
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_survive_packing(shape: tuple[int, int], bits: int) -> None:
    steps = random_steps(shape, bits)
    lines = pack_steps(steps, bits)
    assert lines.dtype == np.uint8
    assert lines.size == packed_bytes(*shape, bits)
    assert padding_is_zero(lines, *shape, bits)
    np.testing.assert_array_equal(unpack_steps(lines, *shape, bits), steps)
    begin, end = shape[0] // 3, shape[0]
    np.testing.assert_array_equal(unpack_steps(lines, *shape, bits, row_begin=begin, row_end=end), steps[begin:end])


@pytest.mark.parametrize("bits", range(1, 5))
@pytest.mark.parametrize("shape", SHAPES)
def test_indices_are_hashes_of_the_last_bits_of_the_stream(shape: tuple[int, int], bits: int) -> None:
    steps = random_steps(shape, bits)
    expected = np.empty_like(steps)
    for row, line in enumerate(steps):
        stream = 0
        for col, step in enumerate(line):
            stream = stream << bits | int(step)
            state = stream % (1 << state_bits(bits))
            expected[row, col] = (state * MULTIPLIERS[bits]) % (1 << 16) >> 8 & 63
    np.testing.assert_array_equal(unpack_indices(pack_steps(steps, bits), *shape, bits), expected)


@pytest.mark.parametrize("bits", range(1, 5))
def test_words_hold_a_rows_stream_highest_bit_first(bits: int) -> None:
    steps = random_steps((17, 40), bits)
    words = pack_steps(steps, bits).view("<u4").reshape(2, 2 * bits, 16)
    for row, line in enumerate(steps):
        text = "".join(f"{step:0{bits}b}" for step in line).ljust(64 * bits, "0")
        assert [f"{word:032b}" for word in words[row // 16, :, row % 16]] == [text[i : i + 32] for i in range(0, len(text), 32)]


@pytest.mark.parametrize("bits", range(1, 5))
@pytest.mark.parametrize("shape", [(17, 33), (16, 31), (3, 10), (16, 33)])
def test_every_padding_bit_is_seen(shape: tuple[int, int], bits: int) -> None:
    full = np.ones((-(-shape[0] // 16) * 16, -(-shape[1] // 32) * 32), np.uint8)
    full[: shape[0], : shape[1]] = 0
    for place in np.argwhere(full)[:: max(full.sum() // 60, 1)]:
        steps = np.zeros_like(full)
        steps[tuple(place)] = 1
        assert not padding_is_zero(pack_steps(steps, bits), *shape, bits), place


def test_any_path_is_valid_and_padding_is_not() -> None:
    scheme, shape = Scheme.parse("trellis3:g16"), (17, 40)
    parts = {name: np.zeros(size, dtype) for name, (size, dtype) in part_shapes(scheme, shape).items()}
    parts["weight"] = pack_steps(random_steps(shape, 3), 3)
    tensor = QuantizedTensor.from_parts(scheme, shape, parts)
    tensor.validate()
    assert tensor.codes().max() < len(levels_for(scheme)) == 64
    broken = parts["weight"].copy()
    broken[-1] = 1
    with pytest.raises(FormatError, match="padding"):
        QuantizedTensor.from_parts(scheme, shape, parts | {"weight": broken}).validate()
