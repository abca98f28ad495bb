"""How far encoded weights lie from the original's, read from its files without torch."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.core.scheme import Scheme, TensorKind
from kbit.folding.changes import Change
from kbit.folding.choose import stated_changes
from kbit.store.folder import StoredModel, open_model
from kbit.store.manifest import Manifest
from kbit.tensor.bfloat16 import BFloat16

__all__ = ["Original", "relative_error"]


class Original:
    """The unencoded model in `path`; its tensors are looked up by the names of the packed modules.

    Where rotations were folded into the weights of `packed`, those of the original get them too, so that both are in one basis.
    """

    def __init__(self, path: str, packed: StoredModel | None = None) -> None:
        self.stored = open_model(path)
        schemes = {} if packed is None or packed.manifest is None else _schemes(packed.manifest)
        self._changes = _changes(self.stored, schemes)
        self._comparable = all(name in self._changes for name, scheme in schemes.items() if "folded" in scheme.methods)

    def weight(self, name: str, kind: TensorKind, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """The weight as it was, in the shape of the packed one; None where none has this name and size (experts one by one, say)."""
        weight = self._weight(name) if self._comparable else None
        if weight is None or weight.size != math.prod(shape):
            return None
        return (weight.T if kind == "conv1d" else weight).reshape(shape)  # GPT-2 keeps the transpose

    def _weight(self, name: str) -> NDArray[np.float32] | None:
        for key in (f"{name}.weight", name):
            if key in self.stored:
                weight, change = self._values(key), self._changes.get(key)
                if change is None:
                    return weight
                return change.apply(weight, None if change.gain is None else change.gain.of(self._values(change.gain.name)))
        return None

    def _values(self, key: str) -> NDArray[np.float32]:
        return _as_float32(self.stored.array(key), self.stored.entry(key).dtype)


def _schemes(manifest: Manifest) -> dict[str, Scheme]:
    """Schemes by the names of parameters, which are those of the original's tensors for all but single experts."""
    return {name if module.kind == "experts" else f"{name}.weight": module.scheme for name, module in manifest.modules.items()}


def _changes(original: StoredModel, schemes: dict[str, Scheme]) -> dict[str, Change]:
    if not any("folded" in scheme.methods for scheme in schemes.values()):
        return {}
    return stated_changes(original.config, {*original.names(), *schemes}, schemes)


def relative_error(weight: NDArray[np.float32], restored: NDArray[np.float32]) -> float:
    """‖W − Ŵ‖ / ‖W‖ in float64; 0 where both are zero."""
    norm = float(np.sqrt(np.sum(np.square(weight, dtype=np.float64))))
    distance = float(np.sqrt(np.sum(np.square(weight.astype(np.float64) - restored))))
    return distance / norm if norm else (math.inf if distance else 0.0)


def _as_float32(array: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    return BFloat16(array).to_float32() if dtype == "BF16" else array.astype(np.float32)
