import numpy as np
import pytest

from kbit.core.errors import ShapeError
from kbit.core.scheme import Scheme
from kbit.tensor.blocks import BlockLayout, expand_groups, logical_shape, rows_of_tiles, tiles_of_rows


def test_sizes_of_a_ragged_matrix():
    layout = BlockLayout.of(Scheme.parse("int4:g48"), 33, 100)
    assert (layout.tiles, layout.kblocks, layout.groups, layout.group_size) == (3, 4, 3, 48)
    assert layout.scale_shape == (3, 3, 16)


def test_one_scale_a_row():
    layout = BlockLayout.of(Scheme.parse("int4:g-1"), 1, 257)
    assert (layout.groups, layout.group_size, layout.scale_shape) == (1, 257, (1, 1, 16))


def test_a_group_is_at_most_the_row():
    assert BlockLayout.of(Scheme.parse("int4:g64"), 16, 64).groups == 1
    with pytest.raises(ShapeError, match=r"int4:g80: expected a group size of at most the 64 columns of a row, or -1, got 80"):
        BlockLayout.of(Scheme.parse("int4:g80"), 16, 64)


def test_logical_shape():
    assert logical_shape((3, 4)) == (1, 3, 4)
    assert logical_shape((2, 3, 4)) == (2, 3, 4)


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0), (1, 2, 3, 4), (2, 0, 3), (-1, 4)])
def test_shapes_that_are_no_matrix(shape):
    with pytest.raises(ShapeError, match="each at least 1"):
        logical_shape(shape)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33])
def test_tiles_and_rows_are_inverse(rows):
    values = np.arange(rows * 5, dtype=np.int32).reshape(rows, 5) + 1
    tiled = tiles_of_rows(values)
    assert tiled.shape == (-(-rows // 16), 5, 16)
    assert tiled[0, 3, 0] == values[0, 3]
    assert tiled[(rows - 1) // 16, 2, (rows - 1) % 16] == values[rows - 1, 2]
    assert np.array_equal(rows_of_tiles(tiled, rows), values)
    assert np.count_nonzero(tiled) == values.size  # padding is 0


def test_expand_groups_gives_each_element_its_group():
    scheme = Scheme.parse("int4:g32")
    values = np.arange(17 * 3).reshape(17, 3)
    expanded = expand_groups(tiles_of_rows(values), scheme, (17, 70))
    assert expanded.shape == (17, 70)
    for row, col in [(0, 0), (0, 31), (0, 32), (16, 63), (16, 64), (5, 69)]:
        assert expanded[row, col] == values[row, col // 32]


def test_expand_groups_refuses_another_shape():
    with pytest.raises(ShapeError, match=r"expected \[2, 3, 16\]"):
        expand_groups(np.zeros((1, 3, 16)), Scheme.parse("int4:g32"), (17, 70))
