"""The two modes of a k-bit product in plain numpy: the oracle of every kernel, written to be read.

Exact mode, in fp32, every product rounded and then added, inputs and groups in ascending order:

    y[r] = Σ_g scale[r, g] · Σ_{j in g} (level[code[r, j]] − zero_point[r, g]) · x[j]

Fast mode quantizes the activations of a group to int8, x ≈ a·q_x with a = max|x|/127, and replaces levels by an affine integer
codebook, level ≈ base + step·(q − centre), so that the sum over a group is one exact integer dot product:

    y[r] = Σ_g scale[r, g] · ( step·a·(Σ_j q[r, j]·q_x[j] − centre·Σ_j q_x[j]) + (base − zero_point[r, g])·a·Σ_j q_x[j] )

computed in fp32, groups ascending, as fma(scale, fma(dot, step·a, (base − zero_point)·(a·Σ q_x)), total): every sum is rounded once
with the product before it, every other product for itself.

With a vector grid the code of row r and input j is that of the vector that j lies in, and its level and q those of j's component in it.
Residual levels are products of their own, added one by one to that of the first codes. Where the scheme rotates, x is Q x in both
(`kbit.tensor.rotation`).

Error of fast mode against exact mode, for each group: |x − a·q_x| ≤ max|x|/254 an input, and |level − …| ≤ step/2 a weight
(0 for integer-spaced grids).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.kernels.fused import fused_multiply_add
from kbit.kernels.parts import has_parts, parts_product
from kbit.tensor.blocks import BlockLayout, expand_groups, rows_of_tiles
from kbit.tensor.pruned import fill_codes, filled_levels
from kbit.tensor.quantized import QuantizedTensor
from kbit.tensor.rotation import reference_rotate
from kbit.tensor.scales import scale_values

__all__ = ["fused_multiply_add", "matmul_exact", "matmul_fast", "quantize_activations"]

FloatMatrix = NDArray[np.float32]


def matmul_exact(quantized: QuantizedTensor, x: FloatMatrix) -> FloatMatrix:
    """Y = x · Wᵀ in exact mode; x [tokens, cols] → [tokens, rows]."""
    rows, cols = quantized.shape
    x = reference_rotate(x) if quantized.rotation else x
    levels = quantized.levels[quantized.codes()].reshape(rows, -1)[:, :cols]
    levels = np.where(quantized.kept(), levels, np.float32(0))
    if quantized.zero_point is not None:
        levels = levels - expand_groups(quantized.zero_point, quantized.scheme, (rows, cols)).astype(np.float32)
    scale = rows_of_tiles(scale_values(quantized), rows)
    group_size = _group_size(quantized)
    total = np.zeros((x.shape[0], rows), np.float32)
    for group, begin in enumerate(range(0, cols, group_size)):
        dot = np.zeros_like(total)
        for j in range(begin, min(begin + group_size, cols)):
            dot += levels[None, :, j] * x[:, j, None]
        total += scale[None, :, group] * dot
    for level in quantized.residual_levels():
        total += matmul_exact(level, x)
    return total + parts_product(quantized.extra, x, rows) if has_parts(quantized.extra) else total


def quantize_activations(x: FloatMatrix, group: int) -> tuple[NDArray[np.int32], FloatMatrix]:
    """int8 activations (as int32 [tokens, cols]) and their scales [tokens, groups]; NaN scales mark groups that are not finite."""
    tokens, cols = x.shape
    q = np.zeros((tokens, cols), np.int32)
    scale = np.zeros((tokens, -(-cols // group)), np.float32)
    for index, begin in enumerate(range(0, cols, group)):
        part = x[:, begin : begin + group]
        largest = np.abs(part).max(axis=1)
        usable = np.isfinite(largest) & (largest >= np.float32(2.0**-120))  # below, 127 / largest would be infinite
        divisor = np.where(usable, largest, np.float32(1))
        scale[:, index] = np.where(usable, divisor / np.float32(127), np.where(np.isfinite(largest), np.float32(0), np.float32(np.nan)))
        values = np.where(usable[:, None], part, np.float32(0)) * (np.float32(127) / divisor)[:, None]
        q[:, begin : begin + group] = np.rint(values).astype(np.int32)
    return q, scale


def matmul_fast(quantized: QuantizedTensor, x: FloatMatrix, codebook: dict[str, Any]) -> FloatMatrix:
    """Y = x · Wᵀ in fast mode, for the integer codebook that `PreparedMatrix.integer_codebook` states."""
    rows, cols = quantized.shape
    x = reference_rotate(x) if quantized.rotation else x
    codes = quantized.codes()
    if quantized.scheme.spec.pruned:
        _, inserted, zero_code = filled_levels(quantized.levels)
        codes = fill_codes(codes, quantized.kept(), inserted, zero_code)
    entries = np.array(codebook["q"], np.int32).reshape(quantized.scheme.dims, -1).T
    weights = entries[codes].reshape(rows, -1)[:, :cols]
    centre, group = int(codebook["centre"]), int(codebook["activation_group"]) * quantized.scheme.dims
    step, base = np.float32(codebook["step"]), np.float32(codebook["base"])
    scale = rows_of_tiles(scale_values(quantized), rows)
    q, activation_scale = quantize_activations(x, group)
    total = np.zeros((x.shape[0], rows), np.float32)
    for index, begin in enumerate(range(0, cols, group)):
        part = q[:, begin : begin + group]
        dot = (part[:, None, :] * weights[None, :, begin : begin + group]).sum(axis=2, dtype=np.int32)
        sums = part.sum(axis=1, dtype=np.int32)
        dot -= centre * sums[:, None]
        a = activation_scale[:, index, None]
        activation_sum = a * sums[:, None].astype(np.float32)
        scale_group = begin // _group_size(quantized)
        zero = np.zeros((1, rows), np.float32)
        if quantized.zero_point is not None:
            zero = rows_of_tiles(quantized.zero_point, rows)[None, :, scale_group].astype(np.float32)
        value = fused_multiply_add(dot.astype(np.float32), step * a, (base - zero) * activation_sum)
        total = fused_multiply_add(scale[None, :, scale_group], value, total)
    for level, book in zip(quantized.residual_levels(), codebook.get("residual", ()), strict=True):
        total += matmul_fast(level, x, book)
    return total + parts_product(quantized.extra, x, rows) if has_parts(quantized.extra) else total


def _group_size(quantized: QuantizedTensor) -> int:
    rows, cols = quantized.shape
    return BlockLayout.of(quantized.scheme, rows, cols).group_size
