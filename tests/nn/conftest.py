"""Small packed matrices of every kind of scheme."""

import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.tensor.quantized import QuantizedTensor

#: one of each kind of part: zero points, codebooks, e4m3 and dq8 scales, several planes
SCHEMES = ("nf4:g32", "int3:g32:asym", "kmeans3:g48:e4m3", "float5:g32:dq8", "int8:g-1", "quantile2:g16", "vq2d3:g96", "vq2d2:g64:dq8")


def random_quantized(scheme: str, *shape: int) -> QuantizedTensor:
    """Random weights, encoded."""
    weights = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    return encode(weights, Scheme.parse(scheme))


@pytest.fixture(params=SCHEMES)
def quantized(request: pytest.FixtureRequest) -> QuantizedTensor:
    """A matrix [40, 96]: neither a whole number of tiles nor, for most schemes, of group multiples."""
    return random_quantized(request.param, 40, 96)
