"""GPTQ for any grid: columns are rounded one after another, and each makes up for the errors of those before it.

Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022). Written
here in the equivalent form of LDLQ (Chee, Cai, Kuleshov, De Sa: "QuIP", 2023, theorem 6), which needs no inverse: with H = R Rᵀ
(`kbit.encoders.hessian`) a row loses Σ_j (e_j R_jj + v_j)², v_j = Σ_{i<j} e_i R_ij, e = w − ŵ. Left to right, column j therefore aims at

    t_j = w_j + v_j / R_jj          rounded to the nearest level of its group's scale

Scales of a group are decided when its first column is reached, for the weights that would lose nothing more if they stayed real numbers:
w_g + v_g R_gg⁻¹. With ``actorder`` the columns go by falling diagonal of H, a group's columns lie scattered, and scales are decided
beforehand for the original weights (static groups); so are those of dq8, whose groups share a super-scale.

What it has chosen is then refined (`kbit.encoders.refine`).

Work is done in blocks: v of a block comes from all errors before it by one matrix product, and inside by rank-1 updates.
Memory: four float32 copies of the matrix and three float64 ones of H.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import NumericsError, SchemeError, ShapeError
from kbit.core.scheme import Scheme
from kbit.encoders.compensate import BLOCK, Columns, column_order, compensate
from kbit.encoders.group_scales import GroupScales
from kbit.encoders.hessian import DAMPING, checked_hessian, damped_factor
from kbit.encoders.inputs import Weights, as_float32, as_weights
from kbit.encoders.nearest import NearestEncoder, encode
from kbit.encoders.refine import Chosen, refine
from kbit.encoders.trellis import compensate_trellis
from kbit.encoders.vector_gptq import encode_vector_matrix
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.blocks import BlockLayout, logical_shape
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor, pad_codebook
from kbit.tensor.rotation import rotate_moments, rotate_rows

__all__ = ["MULTIPLIERS", "ROUNDS", "encode_gptq"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

Multipliers = tuple[float, ...]
#: scales that a group tries besides the one that suits its weights as they are
MULTIPLIERS: Multipliers = (0.75, 0.83, 0.9, 0.95, 1.05, 1.12)
#: rounds of refinement
ROUNDS = 3
#: levels are refined up to so many bits; beyond, there are too many to gain from
_MOST_FITTED_BITS = 4


def encode_gptq(
    weights: Weights,
    scheme: Scheme,
    hessian: Array,
    *,
    name: str = "tensor",
    damping: float = DAMPING,
    block: int = BLOCK,
    multipliers: Multipliers = MULTIPLIERS,
    rounds: int = ROUNDS,
    threads: int = 0,
) -> QuantizedTensor:
    """Encode a matrix or a stack of matrices with compensated errors.

    Args:
        weights: [rows, cols] or [matrices, rows, cols] of float32, float16 or `BFloat16`.
        scheme: the recipe, ``+gptq`` among its methods. With ``imp`` scales are searched under the weights of the Hessian's diagonal.
        hessian: XᵀX of the inputs as they come, before any rotation, up to a factor: [cols, cols]; for a stack [matrices, cols, cols].
        name: what errors call the tensor.
        damping: added to the Hessian's diagonal, in parts of its mean.
        block: columns between two matrix products; the result depends on it by rounding only.
        multipliers: scales that a group tries besides the one it would take, in parts of that.
        rounds: rounds of refinement; 0 leaves what GPTQ chose.
        threads: threads of the native encoder; the result does not depend on it.

    Raises:
        SchemeError: a scheme without ``gptq``.
        DTypeError, ShapeError: weights or a Hessian that do not fit.
        NumericsError: NaN or Inf among the weights or in the Hessian, or a Hessian that is none.
    """
    if "gptq" not in scheme.methods:
        raise SchemeError(f"{name}: expected a scheme with '+gptq', got {scheme.text!r}")
    if block < 1:
        raise ShapeError(f"{name}: expected blocks of at least one column, got {block}")
    array = as_weights(weights, name)
    matrices, rows, cols = logical_shape(array.shape)
    if hessian.shape[:-2] not in ((), (matrices,)) or (hessian.ndim == 2 and array.ndim == 3):
        raise ShapeError(f"{name}: expected a Hessian for each of {matrices} matrices, got shape {list(hessian.shape)}")
    hessians = [checked_hessian(one, cols, name) for one in hessian.reshape(-1, *hessian.shape[-2:])]
    scheme = scheme.for_row(cols)
    if "rotate" in scheme.methods:
        weights = array = _rotated(array, name, threads)
        hessians = [rotate_moments(one, threads=threads) for one in hessians]
    diagonals = np.stack([_importance(one) for one in hessians])
    if scheme.grid == "trellis":
        return _encode_trellis(array, scheme, hessians, diagonals, name, damping, threads)
    first = _nearest(weights, scheme, diagonals if array.ndim == 3 else diagonals[0], name, threads)
    firsts = [replace(matrix, scheme=scheme) for matrix in first.matrices()]
    values = [as_float32(matrix) for matrix in array.reshape(matrices, rows, cols)]
    inputs = list(zip(values, firsts, hessians, diagonals, strict=True))
    if scheme.dims > 1:
        done = [encode_vector_matrix(*one, name, damping, block, threads, refit=array.ndim == 2) for one in inputs]
    else:
        work = [partial(_compensated, *one, name, damping, block, multipliers, threads) for one in inputs]
        # matrices that share fitted levels are refined together, all others one after another
        fitted = scheme.grid == "kmeans" and scheme.bits <= _MOST_FITTED_BITS
        done = _refined(work, fitted, rounds) if fitted else [one for call in work for one in _refined([call], fitted, rounds)]
    return done[0] if array.ndim == 2 else _stacked(done, first, scheme)


def _nearest(weights: Weights, scheme: Scheme, diagonal: Float32, name: str, threads: int) -> QuantizedTensor:
    """What GPTQ starts from: fitted levels, and the scales of original weights where it keeps those."""
    importance = None if "imp" not in scheme.methods else diagonal if diagonal.ndim == 1 else diagonal[:, None]
    kept = tuple(method for method in scheme.methods if method == "hqq")
    return encode(weights, replace(scheme, methods=kept), name=name, importance=importance, threads=threads)


def _rotated(array: Array, name: str, threads: int) -> Float32:
    values = as_float32(array)
    if not np.isfinite(values).all():  # a rotation would spread it over its block
        place = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
        raise NumericsError(f"{name}: expected finite weights, got {values[tuple(place)]} at {place}")
    return rotate_rows(values, threads=threads)


def _encode_trellis(
    array: Array, scheme: Scheme, hessians: list[Array], diagonals: Float32, name: str, damping: float, threads: int
) -> QuantizedTensor:
    """The same for a trellis, whose paths are found by `kbit.encoders.trellis`."""
    encoder = NearestEncoder(array.shape, replace(scheme, methods=()), name=name, threads=threads)
    stacked = array.reshape(len(hessians), *array.shape[-2:])
    for matrix, weights in enumerate(stacked):  # refuses NaN and Inf, and finds the super-scales of e4m3
        encoder.prepare(0, BFloat16(weights) if weights.dtype.kind == "u" else weights, matrix=matrix)
    constants = {segment.part: segment.data for segment in encoder.constant_segments()}
    supers = constants["weight_super_scale"].view(np.float32) if constants else np.zeros(len(hessians), np.float32)
    encoded = [
        compensate_trellis(
            np.ascontiguousarray(as_float32(weights)),
            encoder.scheme,
            encoder.levels,
            hessians[matrix],
            name=name,
            damping=damping,
            importance=diagonals[matrix] if "imp" in scheme.methods else None,
            super_scale=float(supers[matrix]),
            threads=threads,
        )
        for matrix, weights in enumerate(stacked)
    ]
    scheme = scheme.for_row(array.shape[-1])
    parts: dict[str, Array] = {"weight": np.concatenate([one.planes for one in encoded])}
    parts["weight_scale"] = encoded[0].scale if array.ndim == 2 else np.stack([one.scale for one in encoded])
    if constants:
        parts["weight_super_scale"] = supers if array.ndim == 2 else supers[:, None]
    return QuantizedTensor.from_parts(scheme, array.shape, parts)


def _importance(hessian: Array) -> Float32:
    """Its diagonal in parts of the mean; ones for a Hessian of zeros."""
    diagonal = np.diagonal(hessian).astype(np.float64)
    mean = diagonal.mean()
    return np.ones(len(diagonal), np.float32) if mean == 0 else (diagonal / mean).astype(np.float32)


def _refined(work: Sequence[Callable[[], tuple[QuantizedTensor, Chosen]]], fit_levels: bool, rounds: int) -> list[QuantizedTensor]:
    firsts, chosen = zip(*(call() for call in work), strict=True)
    levels = refine(chosen, firsts[0].levels, fit_levels=fit_levels, rounds=rounds)
    return [_packed(first, one, levels) for first, one in zip(firsts, chosen, strict=True)]


def _packed(first: QuantizedTensor, chosen: Chosen, levels: Float32) -> QuantizedTensor:
    scale, zero_point = chosen.scales.parts()
    codebook = None if first.codebook is None else pad_codebook(levels, first.scheme.bits)
    return replace(first, weight=pack(chosen.codes, first.scheme.bits), scale=scale, zero_point=zero_point, codebook=codebook)


def _compensated(
    weights: Float32,
    first: QuantizedTensor,
    hessian: Array,
    diagonal: Float32,
    name: str,
    damping: float,
    block: int,
    multipliers: Multipliers,
    threads: int,
) -> tuple[QuantizedTensor, Chosen]:
    """What GPTQ chooses for one matrix, from its nearest encoding `first`."""
    scales = GroupScales(first, threads=threads)
    group_size = BlockLayout.of(first.scheme, *first.shape).group_size
    dynamic = scales.can_decide and "actorder" not in first.scheme.methods
    order = column_order(diagonal, group_size if dynamic else 0)
    factor = damped_factor(hessian[np.ix_(order, order)], name, damping=damping).astype(np.float32)
    columns = Columns(weights.T[order], order, order // group_size, diagonal if "imp" in first.scheme.methods else None)
    seen = bool(hessian.any())
    tried = multipliers if seen else ()
    codes = compensate(columns, factor, scales, first.levels, dynamic=dynamic, multipliers=tried, block=block)
    return first, Chosen(weights, hessian, codes, scales, group_size, seen)


def _stacked(done: list[QuantizedTensor], first: QuantizedTensor, scheme: Scheme) -> QuantizedTensor:
    parts = {
        name: np.stack([matrix.parts()[name] for matrix in done])
        for name in ("weight", "weight_scale", "weight_zero")
        if name in first.parts()
    }
    kept = {name: part for name, part in (first.parts() | done[0].parts()).items() if name == "weight_codebook"}
    kept |= {name: part for name, part in first.parts().items() if name == "weight_super_scale"}
    parts["weight"] = parts["weight"].reshape(first.weight.shape)
    return QuantizedTensor.from_parts(scheme, first.shape, parts | kept)
