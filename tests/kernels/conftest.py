"""Instruction sets in turn, and packed matrices of normal weights."""

from collections.abc import Iterator

import numpy as np
import pytest

from kbit import native
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.tensor.quantized import QuantizedTensor


@pytest.fixture(params=native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    native.set_isa(request.param)
    yield request.param
    native.set_isa(before)


def make(shape: tuple[int, int], text: str) -> QuantizedTensor:
    weights = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    return encode(weights, Scheme.parse(text), name="test")
