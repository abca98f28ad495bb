from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from kbit.core.errors import NumericsError, SchemeError
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.tensor.nested import coarse_scheme, first_bits


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("text", ["nested8:g64", "nested5:g48:e4m3", "nested3:g-1:dq8", "nested4:g32+imp"])
@pytest.mark.parametrize("shape", [(40, 96), (3, 17, 100)])
def test_first_bits_are_those_of_each_code(text: str, shape: tuple[int, ...]) -> None:
    importance = np.linspace(0.5, 2, shape[-1], dtype=np.float32) if "imp" in text else None
    tensor = encode(weights(*shape), Scheme.parse(text), importance=importance)
    tensor.validate()
    for bits in range(2, tensor.scheme.bits + 1):
        coarse = first_bits(tensor, bits)
        coarse.validate()
        assert coarse.scheme == replace(tensor.scheme, grid="kmeans", bits=bits)
        np.testing.assert_array_equal(coarse.codes(), tensor.codes() >> (tensor.scheme.bits - bits))
        assert coarse.scale is tensor.scale
        assert np.array_equal(coarse.dequantize(), tensor.dequantize()) == (bits == tensor.scheme.bits)


def test_more_bits_lose_less() -> None:
    matrix = weights(64, 256)
    tensor = encode(matrix, Scheme.parse("nested8:g64"))
    errors = [np.square(first_bits(tensor, bits).dequantize() - matrix).sum() for bits in range(2, 9)]
    assert all(after < 0.4 * before for before, after in pairwise(errors))


@pytest.mark.parametrize("bits", [1, 6, 0, -1])
def test_bits_that_are_not_there_are_refused(bits: int) -> None:
    with pytest.raises(SchemeError, match=rf"nested5:g64.*2…5 bits, got {bits}"):
        coarse_scheme(Scheme.parse("nested5"), bits)
    with pytest.raises(SchemeError, match="expected a nested scheme"):
        coarse_scheme(Scheme.parse("kmeans5"), 3)


def test_levels_cannot_be_given() -> None:
    with pytest.raises(SchemeError, match="cannot be given"):
        encode(weights(16, 64), Scheme.parse("nested4"), levels=np.linspace(-1, 1, 16, dtype=np.float32))


def test_coarser_levels_of_a_file_must_ascend() -> None:
    tensor = encode(weights(16, 64), Scheme.parse("nested4"))
    codebook = tensor.codebook.copy()
    codebook[4:8] = codebook[4:8][::-1]
    with pytest.raises(NumericsError, match="ascending"):
        replace(tensor, codebook=codebook).validate()
