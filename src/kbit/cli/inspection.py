"""What became of each weight: how far it lies from the original, how its values are spread, where its bits went. Needs no torch."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kbit.allocate.sensitivity import FILE_NAME, Sensitivity
from kbit.cli.originals import Original, relative_error
from kbit.core.scheme import TensorKind
from kbit.store.accounting import packed_arrays, packed_bits
from kbit.store.folder import StoredModel
from kbit.tensor.blocks import expand_groups
from kbit.tensor.quantized import QuantizedTensor
from kbit.tensor.scales import scale_values

__all__ = ["Histogram", "Inspected", "histogram", "inspect", "layer_of", "stored_sensitivity"]

_BINS = 120


@dataclass(frozen=True, slots=True)
class Inspected:
    """One encoded weight.

    Attributes:
        name, kind, scheme, weights: what it is.
        bpw: stored bits a weight.
        bits: part → bits (`kbit.store.accounting`).
        kurtosis: fourth moment over the squared second, of the original where there is one, else of the decoded values; 3 for a Gaussian.
        largest: largest magnitude over the root mean square, of the same.
        error: ‖W − Ŵ‖ / ‖W‖; None without an original.
        sqnr_db: the same as a ratio of signal to noise in decibels.
        kl: KL divergence of the model with this weight alone encoded, where it was measured.
    """

    name: str
    kind: TensorKind
    scheme: str
    weights: int
    bpw: float
    bits: Mapping[str, int]
    kurtosis: float
    largest: float
    error: float | None = None
    sqnr_db: float | None = None
    kl: float | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Weights of one tensor in units of their scales, between the levels.

    Attributes:
        name, scheme: of the tensor.
        edges: of the bins, [bins + 1].
        counts: weights in each bin, the outer ones with all beyond: of the original, or decoded ones, which lie on the levels.
        levels: of the codebook, ascending.
        decoded: True without an original.
    """

    name: str
    scheme: str
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    levels: NDArray[np.float32]
    decoded: bool


def stored_sensitivity(stored: StoredModel) -> Sensitivity | None:
    """The losses that lie in the model's folder, if any."""
    path = Path(stored.path) / FILE_NAME
    return Sensitivity.read(path) if path.is_file() else None


def inspect(stored: StoredModel, original: Original | None = None) -> Iterator[Inspected]:
    """Every encoded weight of a folder, in the order of its manifest."""
    assert stored.manifest is not None, "only packed folders have encoded weights"
    sensitivity = stored_sensitivity(stored)
    for name, module in stored.manifest.modules.items():
        tensor = stored.quantized(name)
        restored = tensor.dequantize()
        weight = None if original is None else original.weight(name, module.kind, restored.shape)
        bits = packed_bits(module.scheme, module.shape, packed_arrays(stored, name))
        error = None if weight is None else relative_error(weight, restored)
        loss = None if sensitivity is None else sensitivity.losses.get(name, {}).get(module.scheme)
        yield Inspected(
            name=name,
            kind=module.kind,
            scheme=module.scheme.text,
            weights=math.prod(module.shape),
            bpw=sum(bits.values()) / math.prod(module.shape),
            bits=dict(bits),
            **_spread(restored if weight is None else weight),
            error=error,
            sqnr_db=None if not error or not math.isfinite(error) else -20 * math.log10(error),
            kl=None if loss is None else loss.kl,
        )


def _spread(values: NDArray[np.float32]) -> dict[str, float]:
    """Kurtosis and largest magnitude over the root mean square; 0 both where all are 0."""
    squares = np.square(values, dtype=np.float64)
    second = float(squares.mean())
    if second == 0:
        return {"kurtosis": 0.0, "largest": 0.0}
    return {"kurtosis": float(np.square(squares).mean()) / second**2, "largest": math.sqrt(float(squares.max()) / second)}


def histogram(stored: StoredModel, name: str, original: Original | None = None) -> Histogram | None:
    """Weights of a tensor (of its first matrix) over its levels; None where its codes are not levels of single weights."""
    assert stored.manifest is not None, "only packed folders have encoded weights"
    tensor, kind = stored.quantized(name), stored.manifest.modules[name].kind
    matrix = tensor.matrices()[0]
    levels = np.asarray(matrix.levels)
    if levels.ndim != 1:
        return None
    weight = None if original is None else original.weight(name, kind, tensor.shape)
    values = matrix.dequantize() if weight is None else weight.reshape(-1, *weight.shape[-2:])[0]
    found = _in_levels(matrix, values)
    margin = 2 * float(levels[-1] - levels[0]) / max(4, len(levels)) or 1.0
    edges = np.linspace(float(levels[0]) - margin, float(levels[-1]) + margin, _BINS + 1)
    counts, _ = np.histogram(np.clip(found, edges[0], edges[-1]), edges)
    return Histogram(name, matrix.scheme.text, edges, counts.astype(np.int64), levels, weight is None)


def _in_levels(matrix: QuantizedTensor, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values over their scales, zero points added; those of groups with scale 0 are left out."""
    shape = (matrix.shape[-2], matrix.shape[-1])
    scale = expand_groups(scale_values(matrix), matrix.scheme, shape)
    zero = 0.0 if matrix.zero_point is None else expand_groups(matrix.zero_point, matrix.scheme, shape)
    used = scale != 0
    found: NDArray[np.float32] = (values / np.where(used, scale, 1) + zero)[used]
    return found


def layer_of(name: str) -> tuple[int, str] | None:
    """(layer, what is the same in each) of a module's name; None outside of layers: ``model.layers.3.mlp.up_proj`` → (3, up_proj)."""
    match = re.search(r"(?:^|\.)([0-9]+)\.(.+)$", name)
    return None if match is None else (int(match[1]), match[2].rpartition(".")[2])
