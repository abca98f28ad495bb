"""How far encoded weights lie from the original's, read from its files without torch."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.core.scheme import TensorKind
from kbit.store.folder import open_model
from kbit.tensor.bfloat16 import BFloat16

__all__ = ["Original", "relative_error"]


class Original:
    """The unencoded model in `path`; its tensors are looked up by the names of the packed modules."""

    def __init__(self, path: str) -> None:
        self.stored = open_model(path)

    def weight(self, name: str, kind: TensorKind, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """The weight as it was, in the shape of the packed one; None where none has this name and size (experts one by one, say)."""
        weight = self._weight(name)
        if weight is None or weight.size != math.prod(shape):
            return None
        return (weight.T if kind == "conv1d" else weight).reshape(shape)  # GPT-2 keeps the transpose

    def _weight(self, name: str) -> NDArray[np.float32] | None:
        for key in (f"{name}.weight", name):
            if key in self.stored:
                return _as_float32(self.stored.array(key), self.stored.entry(key).dtype)
        return None


def relative_error(weight: NDArray[np.float32], restored: NDArray[np.float32]) -> float:
    """‖W − Ŵ‖ / ‖W‖ in float64; 0 where both are zero."""
    norm = float(np.sqrt(np.sum(np.square(weight, dtype=np.float64))))
    distance = float(np.sqrt(np.sum(np.square(weight.astype(np.float64) - restored))))
    return distance / norm if norm else (math.inf if distance else 0.0)


def _as_float32(array: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    return BFloat16(array).to_float32() if dtype == "BF16" else array.astype(np.float32)
