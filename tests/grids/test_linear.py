import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.grids.linear import linear_levels


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_levels_are_twos_complement(bits: int) -> None:
    assert linear_levels(Scheme("int", bits)).tolist() == list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))


def test_one_bit_tells_signs_apart() -> None:
    assert linear_levels(Scheme("int", 1)).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("bits", range(1, 9))
def test_asymmetric_levels_count_from_zero(bits: int) -> None:
    levels = linear_levels(Scheme("int", bits, symmetric=False))
    assert levels.tolist() == list(range(2**bits))
    assert levels.dtype == np.float64
