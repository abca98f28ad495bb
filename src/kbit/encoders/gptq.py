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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import SchemeError, ShapeError
from kbit.core.scheme import Scheme
from kbit.encoders.compensate import BLOCK, Columns, column_order, compensate
from kbit.encoders.group_scales import GroupScales
from kbit.encoders.hessian import DAMPING, checked_hessian, damped_factor
from kbit.encoders.holes import Holes
from kbit.encoders.inputs import Weights, as_float32, as_weights, finite_float32, given_weights
from kbit.encoders.nearest import NearestEncoder, encode
from kbit.encoders.nested_gptq import encode_nested
from kbit.encoders.refine import Chosen, refine
from kbit.encoders.trellis_gptq import compensate_trellis
from kbit.encoders.vector_gptq import encode_vector_matrix
from kbit.tensor.blocks import BlockLayout, logical_shape
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor, pad_codebook
from kbit.tensor.rotation import rotate_moments, rotate_rows

__all__ = ["MULTIPLIERS", "ROUNDS", "Effort", "encode_free", "encode_gptq", "encode_matrices", "mean_importance"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

Multipliers = tuple[float, ...]
#: scales that a group tries besides the one that suits its weights as they are
MULTIPLIERS: Multipliers = (0.75, 0.83, 0.9, 0.95, 1.05, 1.12)
#: rounds of refinement
ROUNDS = 3
#: levels are refined up to so many bits; beyond, there are too many to gain from
_MOST_FITTED_BITS = 4


@dataclass(frozen=True, slots=True)
class Effort:
    """How GPTQ goes about a tensor: arguments of `encode_gptq`."""

    name: str
    damping: float
    block: int
    multipliers: Multipliers
    rounds: int
    threads: int


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
    scheme, effort = scheme.for_row(cols), Effort(name, damping, block, multipliers, rounds, threads)
    if "rotate" in scheme.methods:
        array = rotate_rows(finite_float32(array, name), threads=threads)
        hessians = [rotate_moments(one, threads=threads) for one in hessians]
    if scheme.parts:
        from kbit.encoders.with_parts import encode_with_parts

        return encode_with_parts(array, scheme, name=name, hessians=hessians, effort=effort)
    done = encode_matrices(array.reshape(matrices, rows, cols), scheme, hessians, effort)
    return done[0] if array.ndim == 2 else QuantizedTensor.stack(done)


def encode_matrices(
    array: Array, scheme: Scheme, hessians: Sequence[Array], effort: Effort, holes: Sequence[Holes] | None = None
) -> list[QuantizedTensor]:
    """Encode matrices of one tensor, which share a fitted codebook.

    Args:
        array: what `as_weights` returns, [matrices, rows, cols], rotated already where the scheme says so.
        scheme: the recipe, without parts.
        hessians: checked, of the inputs as the codes see them, one for each matrix.
        effort: how.
        holes: weights of each matrix that its codes do not decide; for grids whose codes stand for one weight each.
    """
    diagonals = np.stack([mean_importance(one) for one in hessians])
    if scheme.grid == "trellis":
        return _encode_trellis(array, scheme, hessians, diagonals, effort)
    weighs = diagonals if "imp" in scheme.methods else None
    held = None if holes is None else np.stack([one.held for one in holes])
    firsts = [replace(first, scheme=scheme) for first in encode_free(array, scheme, weighs, held, name=effort.name, threads=effort.threads)]
    if scheme.dims > 1:
        how = (effort.name, effort.damping, effort.block, effort.threads)
        return [
            encode_vector_matrix(as_float32(array[i]), first, hessians[i], diagonals[i], *how, refit=len(array) == 1)
            for i, first in enumerate(firsts)
        ]
    if scheme.grid == "nested":
        matrices = [as_float32(one) for one in array]
        return encode_nested(matrices, firsts, hessians, list(diagonals), name=effort.name, damping=effort.damping, rounds=effort.rounds)
    work = [
        partial(_compensated, as_float32(array[i]), first, hessians[i], diagonals[i], effort, None if holes is None else holes[i])
        for i, first in enumerate(firsts)
    ]
    # matrices that share fitted levels are refined together, all others one after another
    fitted = scheme.grid == "kmeans" and scheme.bits <= _MOST_FITTED_BITS
    return _refined(work, fitted, effort.rounds) if fitted else [one for call in work for one in _refined([call], fitted, effort.rounds)]


def encode_free(
    array: Array, scheme: Scheme, weighs: Float32 | None, held: Bools | None, *, name: str, threads: int
) -> list[QuantizedTensor]:
    """Nearest encoding of the matrices of one tensor, in which weights that are held count for nothing.

    Args:
        array: as for `encode_matrices`.
        scheme: the recipe; of its methods only ``hqq`` takes part, and its parts do not.
        weighs: how errors weigh, [matrices, cols]; None for all alike.
        held: [matrices, rows, cols]; None for none.
        name: what errors call the tensor.
        threads: as for `encode`.
    """
    importance = None if weighs is None else weighs[:, None]
    if held is not None:
        array = np.where(held, np.float32(0), array)
        importance = np.where(held, np.float32(0), np.float32(1) if importance is None else importance)
    if len(array) == 1:
        array, importance = array[0], None if importance is None else importance[0]
    bare = replace(scheme, methods=tuple(method for method in scheme.methods if method == "hqq"), parts=())
    return encode(given_weights(array), bare, name=name, importance=importance, threads=threads).matrices()


def _encode_trellis(array: Array, scheme: Scheme, hessians: Sequence[Array], diagonals: Float32, effort: Effort) -> list[QuantizedTensor]:
    """The same for a trellis, whose paths are found by `kbit.encoders.trellis_gptq`."""
    shape = array.shape[1:] if len(array) == 1 else array.shape
    encoder = NearestEncoder(shape, replace(scheme, methods=()), name=effort.name, threads=effort.threads)
    for matrix, weights in enumerate(array):  # refuses NaN and Inf, and finds the super-scales of e4m3
        encoder.prepare(0, given_weights(weights), matrix=matrix)
    constants = {segment.part: segment.data for segment in encoder.constant_segments()}
    supers = constants["weight_super_scale"].view(np.float32) if constants else np.zeros(len(hessians), np.float32)
    done = []
    for matrix, weights in enumerate(array):
        encoded = compensate_trellis(
            np.ascontiguousarray(as_float32(weights)),
            encoder.scheme,
            encoder.levels,
            hessians[matrix],
            name=effort.name,
            damping=effort.damping,
            importance=diagonals[matrix] if "imp" in scheme.methods else None,
            super_scale=float(supers[matrix]),
            threads=effort.threads,
        )
        parts: dict[str, Array] = {"weight": encoded.planes, "weight_scale": encoded.scale}
        if constants:
            parts["weight_super_scale"] = supers[matrix : matrix + 1]
        done.append(QuantizedTensor.from_parts(scheme, weights.shape, parts))
    return done


def mean_importance(hessian: Array) -> Float32:
    """Its diagonal in parts of the mean; ones for a Hessian of zeros."""
    diagonal = np.diagonal(hessian).astype(np.float64)
    mean = diagonal.mean()
    return np.ones(len(diagonal), np.float32) if mean == 0 else (diagonal / mean).astype(np.float32)


def _refined(work: Sequence[Callable[[], tuple[QuantizedTensor, Chosen]]], fit_levels: bool, rounds: int) -> list[QuantizedTensor]:
    firsts, chosen = zip(*(call() for call in work), strict=True)
    levels = refine(chosen, firsts[0].levels, fit_levels=fit_levels, rounds=rounds)
    codebook = pad_codebook(levels, firsts[0].scheme.bits) if fit_levels else firsts[0].codebook
    return [_packed(first, one, codebook) for first, one in zip(firsts, chosen, strict=True)]


def _packed(first: QuantizedTensor, chosen: Chosen, codebook: Array | None) -> QuantizedTensor:
    scale, zero_point = chosen.scales.parts()
    return replace(first, weight=pack(chosen.codes, first.scheme.bits), scale=scale, zero_point=zero_point, codebook=codebook)


def _compensated(
    weights: Float32, first: QuantizedTensor, hessian: Array, diagonal: Float32, effort: Effort, holes: Holes | None
) -> tuple[QuantizedTensor, Chosen]:
    """What GPTQ chooses for one matrix, from its nearest encoding `first`."""
    scales = GroupScales(first, threads=effort.threads)
    group_size = BlockLayout.of(first.scheme, *first.shape).group_size
    dynamic = scales.can_decide and "actorder" not in first.scheme.methods
    grouped = dynamic or (holes is not None and holes.choose is not None)
    order = column_order(diagonal, group_size if grouped else 0)
    factor = damped_factor(hessian[np.ix_(order, order)], effort.name, damping=effort.damping).astype(np.float32)
    columns = Columns(weights.T[order], order, order // group_size, diagonal if "imp" in first.scheme.methods else None, holes)
    seen = bool(hessian.any())
    tried = effort.multipliers if seen else ()
    codes = compensate(columns, factor, scales, first.levels, grouped=grouped, dynamic=dynamic, multipliers=tried, block=effort.block)
    return first, Chosen(weights, hessian, codes, scales, group_size, seen, holes)
