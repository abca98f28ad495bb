"""A model whose codes are kept as Huffman streams: plain values, checked when they are made, and the product that runs on them.

    W[r, j] = scale[r, g] · (codebook[codes[r, j]] − zero_point[r, g]),   g = j // group_size
    y[r]    = Σ_g scale[r, g] · Σ_{j in g} (codebook[codes[r, j]] − zero_point[r, g]) · x[j]

The sums are the *exact mode* of kbit: float32, every product rounded and then added, inputs and groups ascending, no fused
multiply-add and no BLAS. So the result has the same bytes on every machine, and the same as from codes that were never compressed.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import DTypeError, NumericsError, SchemeError, ShapeError

__all__ = ["Activation", "CompressedLayer", "CompressedMatrix", "CompressedModel", "exact_product"]

Activation = Literal["identity", "relu"]


@dataclass(frozen=True, slots=True, eq=False)
class CompressedMatrix:
    """A matrix of codes as Huffman streams of whole rows, with what turns codes into weights.

    Attributes:
        blocks: streams, each of a uint8 array `[block rows, cols]`; their rows one after another are the matrix.
        shape: `(rows, cols)`, outputs and inputs.
        codebook: float32 `[levels]`.
        scale: float32 `[rows, groups]`, groups = ⌈cols / group_size⌉.
        group_size: inputs that share a scale; the last group may be shorter.
        zero_point: float32 `[rows, groups]`, subtracted from the level before scaling, or None.
    """

    blocks: tuple[bytes, ...]
    shape: tuple[int, int]
    codebook: NDArray[np.float32]
    scale: NDArray[np.float32]
    group_size: int
    zero_point: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        rows, cols = self.shape
        if not 1 <= self.group_size <= max(cols, 1):
            raise ShapeError(f"expected group_size of 1…{max(cols, 1)}, the inputs of a row, got {self.group_size}")
        groups = -(-cols // self.group_size)
        if self.codebook.ndim != 1 or not 1 <= len(self.codebook) <= 256:
            raise ShapeError(f"codebook: expected 1…256 levels, got shape {self.codebook.shape}")
        _check_floats("codebook", self.codebook, self.codebook.shape)
        _check_floats("scale", self.scale, (rows, groups))
        if self.zero_point is not None:
            _check_floats("zero_point", self.zero_point, (rows, groups))

    @property
    def code_bytes(self) -> int:
        """Bytes of the compressed codes with their headers; codebook, scales and zero points are not in it."""
        return sum(map(len, self.blocks))


@dataclass(frozen=True, slots=True, eq=False)
class CompressedLayer:
    """``activation(x · Wᵀ + bias)``."""

    matrix: CompressedMatrix
    bias: NDArray[np.float32] | None = None
    activation: Activation = "identity"

    def __post_init__(self) -> None:
        if self.bias is not None:
            _check_floats("bias", self.bias, self.matrix.shape[:1])
        if self.activation not in ("identity", "relu"):
            raise SchemeError(f"activation: expected identity or relu, got {self.activation!r}")


@dataclass(frozen=True, slots=True, eq=False)
class CompressedModel:
    """Layers, each fed by the one before."""

    layers: tuple[CompressedLayer, ...]

    def __post_init__(self) -> None:
        for number, (before, after) in enumerate(zip(self.layers, self.layers[1:], strict=False)):
            if after.matrix.shape[1] != before.matrix.shape[0]:
                raise ShapeError(f"layer {number + 1}: expected {before.matrix.shape[0]} inputs, got {after.matrix.shape[1]}")


def _check_floats(name: str, array: NDArray[np.float32], shape: tuple[int, ...]) -> None:
    if array.dtype != np.float32:
        raise DTypeError(f"{name}: expected float32, got {array.dtype}")
    if array.shape != shape:
        raise ShapeError(f"{name}: expected shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise NumericsError(f"{name}: expected finite numbers, got NaN or Inf at index {np.argwhere(~np.isfinite(array))[0].tolist()}")


def exact_product(
    x: NDArray[np.float32],
    levels: NDArray[np.float32],
    scale: NDArray[np.float32],
    group_size: int,
    zero_point: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """`[batch, rows]`, the product of `x` (`[batch, cols]`) with the rows whose levels (`[rows, cols]`) and scales these are."""
    batch, (rows, cols), groups = len(x), levels.shape, scale.shape[1]
    tail = groups * group_size - cols  # zeros there add +0, which changes no sum that started from +0
    x = np.pad(x, ((0, 0), (0, tail))).reshape(batch, 1, groups, group_size)
    if zero_point is not None:
        levels = levels - np.repeat(zero_point, group_size, axis=1)[:, :cols]
    levels = np.pad(levels, ((0, 0), (0, tail))).reshape(1, rows, groups, group_size)
    with np.errstate(over="ignore", invalid="ignore"):  # Inf and NaN come out as IEEE 754 says, as from a kernel
        sums = np.zeros((batch, rows, groups), np.float32)
        for place in range(group_size):  # all groups take a step together, each in the order of its inputs
            sums += levels[..., place] * x[..., place]
        y = np.zeros((batch, rows), np.float32)
        for group in range(groups):
            y += scale[:, group] * sums[..., group]
    return y
