"""How much a model may have lost, by its bits alone: the band of the sanity gate.

The KL divergence of an encoded model is, to second order, a quadratic form of its weights' errors, so it goes with their relative squared
error d: for each scheme that of Gaussian weights under it, by nearest rounding, averaged over the weights of the model. On the models that
were measured (`benchmarks/allocation.py`) KL lies between 0.3 and 2 times 4·d from 2 to 8 bits; methods that look at inputs bring it down.
Models differ, and outliers cost more than Gaussian weights, so the band ends at `SLACK` times that, and never above `MOST_KL`, where
the model's perplexity has nearly tripled, whatever its bits explain.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np

from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.store.manifest import Module

__all__ = ["LEAST_KL", "MOST_KL", "SLACK", "expected_kl", "gaussian_error", "largest_kl"]

#: nats a token for a unit of relative squared error
_KL_PER_ERROR = 4.0
SLACK = 10.0
#: what int8 activations and rounding cost by themselves, many times over
LEAST_KL = 0.02
MOST_KL = 1.0
_SAMPLE = (64, 1024)


@lru_cache(maxsize=256)
def gaussian_error(scheme: Scheme) -> float:
    """‖W − Ŵ‖² / ‖W‖² of Gaussian weights under a scheme, by nearest rounding with searched scales; 0 for "16"."""
    if scheme.is_none:
        return 0.0
    weights = np.random.default_rng(0).standard_normal(_SAMPLE, np.float32)
    restored = encode(weights, replace(scheme, methods=(), scale_search="mse")).dequantize()
    return float(np.sum(np.square(weights - restored, dtype=np.float64)) / np.sum(np.square(weights, dtype=np.float64)))


def expected_kl(modules: Mapping[str, Module]) -> float:
    """KL divergence to expect of a model with these weights encoded, nats a token."""
    weights = {name: math.prod(module.shape) for name, module in modules.items()}
    error = sum(gaussian_error(module.scheme) * weights[name] for name, module in modules.items()) / sum(weights.values())
    return _KL_PER_ERROR * error


def largest_kl(modules: Mapping[str, Module], predicted: float | None = None) -> float:
    """End of the band: `SLACK` times what was predicted for its plan, or else what its bits explain."""
    expected = expected_kl(modules) if predicted is None else predicted
    return min(max(SLACK * expected, LEAST_KL), MOST_KL)
