"""GPTQ for nested codes: each k makes up for the errors of its own first k bits, and one code serves them all.

A row loses L_k = Σ_j (e^k_j R_jj + v^k_j)² at k bits, v^k_j = Σ_{i<j} e^k_i R_ij (`kbit.encoders.gptq`), e^k what the first k bits of its
codes leave. So at column j the k bits would have the target t^k_j = w_j + v^k_j / R_jj, and the code c is that of the least

    Σ_k λ_k (t^k_j − s · level_k[c >> (K − k)])²

over all 2^K (`kbit.encoders.nested_codes`), λ_k = share_k / (L_k of nearest codes), so that each k counts by its relative excess.

Then, in turns as in `kbit.encoders.refine`:

    scales   least squares under H for all k together, Σ_k λ_k e^k H e^kᵀ
    levels   of every k, for the codes as they are (`kbit.encoders.nested_levels`)
    codes    coordinate descent on Σ_k λ_k e^k H e^kᵀ

The targets of different k pull a code to different sides, and a code of K bits can follow that of k only as far as the levels below one
node of k bits reach. So no k gains what it would alone; `SHARES` are those by which the worst excess over k ≥ 3 is least.

Memory: 2 (K − 1) float32 copies of `ROWS_AT_ONCE` rows beside what GPTQ takes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.encoders.compensate import column_order
from kbit.encoders.group_scales import GroupScales
from kbit.encoders.hessian import damped_factor
from kbit.encoders.nested_codes import JointCodes, joint_weights
from kbit.encoders.nested_levels import fit_levels
from kbit.encoders.refine import Chosen, take_scales
from kbit.encoders.scale_equations import ROWS_AT_ONCE as EQUATIONS_AT_ONCE
from kbit.encoders.scale_equations import scale_equations
from kbit.tensor.blocks import BlockLayout
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["ROWS_AT_ONCE", "SHARES", "compensate_nested", "encode_nested", "losses_of", "sweep_nested"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: of L_k in what is made least, for k = 0…8
SHARES = (0.0, 0.0, 0.1, 8.0, 4.0, 2.0, 1.2, 1.0, 1.0)
ROWS_AT_ONCE = 512
_BLOCK = 64


@dataclass(slots=True, eq=False)
class _Work:
    """A matrix at work: what has been chosen for it, and λ_k."""

    chosen: Chosen
    weights: Float64


def encode_nested(
    weights: Sequence[Float32],
    firsts: Sequence[QuantizedTensor],
    hessians: Sequence[Array],
    diagonals: Sequence[Float32],
    *,
    name: str,
    damping: float,
    rounds: int,
) -> list[QuantizedTensor]:
    """Encode matrices that share their levels, from their nearest encodings.

    Args:
        weights: [rows, cols] each.
        firsts: nearest encodings, with one codebook.
        hessians: checked, one for each matrix.
        diagonals: what the columns are ordered by, [cols] each.
        name: what errors call the tensor.
        damping: added to a Hessian's diagonal, in parts of its mean.
        rounds: of scales, levels and codes in turns; 0 leaves what was chosen column by column.
    """
    bits, table = firsts[0].scheme.bits, firsts[0].codebook
    assert table is not None
    work = []
    for matrix, first, hessian, diagonal in zip(weights, firsts, hessians, diagonals, strict=True):
        group_size = BlockLayout.of(first.scheme, *first.shape).group_size
        chosen = Chosen(matrix, hessian, first.codes(), GroupScales(first), group_size, bool(hessian.any()))
        work.append(_Work(chosen, joint_weights(SHARES, losses_of(chosen, table, bits))))
        order = column_order(diagonal, 0)
        factor = damped_factor(hessian[np.ix_(order, order)], name, damping=damping).astype(np.float32)
        chosen.codes = compensate_nested(chosen, JointCodes(bits, table, work[-1].weights), factor, order)
    teachers = [one.chosen for one in work if one.chosen.seen]
    for _ in range(rounds):
        for one in work:
            if one.chosen.seen:
                _fit_scales(one, table, bits)
        table = fit_levels(teachers, table, bits)
        for one in work:
            sweep_nested(one.chosen, JointCodes(bits, table, one.weights))
    if rounds:
        table = fit_levels(teachers, table, bits)
    return [_packed(first, one.chosen, table) for first, one in zip(firsts, work, strict=True)]


def losses_of(chosen: Chosen, table: Float32, bits: int) -> Float64:
    """L_k under the damped Hessian for k = 2…bits, float64 [bits − 1]."""
    hessian, losses = chosen.hessian, np.zeros(bits - 1)
    for rows in _row_blocks(chosen):
        for index, error in enumerate(_errors(chosen, rows, table, bits)):
            losses[index] += np.einsum("rc,rc->", error @ hessian, error, dtype=np.float64)
    return losses


def _row_blocks(chosen: Chosen) -> Iterator[slice]:
    return (slice(begin, begin + ROWS_AT_ONCE) for begin in range(0, len(chosen.weights), ROWS_AT_ONCE))


def _errors(chosen: Chosen, rows: slice, table: Float32, bits: int) -> Iterator[Float32]:
    """What the first k bits of `rows` leave, [rows, cols], for k = 2…bits."""
    scale, codes = chosen.scales.value[rows][:, chosen.group], chosen.codes[rows].astype(np.intp)
    for k in range(2, bits + 1):
        yield chosen.weights[rows] - table[(1 << k) + (codes >> (bits - k))] * scale


def compensate_nested(chosen: Chosen, joint: JointCodes, factor: Float32, order: npt.NDArray[np.intp]) -> Bytes:
    """Codes [rows, cols], columns taken by `order`, for the scales that were chosen; `factor` is R of H in that order."""
    codes, choose, many = np.empty_like(chosen.codes), joint.chooser(), joint.bits - 1
    for rows in _row_blocks(chosen):
        columns, scales = np.ascontiguousarray(chosen.weights[rows].T), chosen.scales.value[rows].T
        error = np.zeros((len(order), many, columns.shape[1]), np.float32)
        flat = error.reshape(len(order), -1)
        for begin in range(0, len(order), _BLOCK):
            end = min(begin + _BLOCK, len(order))
            carried = (factor[:begin, begin:end].T @ flat[:begin]).reshape(end - begin, many, -1)
            for j in range(begin, end):
                column = order[j]
                targets = columns[column] + carried[j - begin] / factor[j, j]
                codes[rows, column], amounts = choose(targets, scales[chosen.group[column]])
                error[j] = columns[column] - amounts
                carried[j + 1 - begin :] += factor[j, j + 1 : end, None, None] * error[j]
    return codes


def sweep_nested(chosen: Chosen, joint: JointCodes) -> None:
    """Choose every code once more, left to right, all others being as they are."""
    hessian, group, choose, bits = chosen.hessian, chosen.group, joint.chooser(), joint.bits
    for rows in _row_blocks(chosen):
        columns, scales = np.ascontiguousarray(chosen.weights[rows].T), chosen.scales.value[rows].T
        error = np.ascontiguousarray(np.stack(list(_errors(chosen, rows, joint.table, bits))).transpose(2, 0, 1))
        for begin in range(0, len(columns), _BLOCK):
            end = min(begin + _BLOCK, len(columns))
            pull = (hessian[begin:end] @ error.reshape(len(columns), -1)).reshape(end - begin, bits - 1, -1)
            for j in range(begin, end):
                targets = columns[j] + pull[j - begin] / hessian[j, j] - error[j]
                chosen.codes[rows, j], amounts = choose(targets, scales[group[j]])
                after = columns[j] - amounts
                pull[j + 1 - begin :] += hessian[j + 1 : end, j, None, None] * (after - error[j])
                error[j] = after


def _fit_scales(work: _Work, table: Float32, bits: int) -> None:
    chosen, hessian = work.chosen, work.chosen.hessian
    for begin in range(0, len(chosen.weights), EQUATIONS_AT_ONCE):
        rows = slice(begin, begin + EQUATIONS_AT_ONCE)
        weights, codes = chosen.weights[rows], chosen.codes[rows].astype(np.intp)
        of_every_k = [
            [weight * part for part in scale_equations(table[(1 << k) + (codes >> (bits - k))], weights, hessian, chosen.group_size)]
            for k, weight in zip(range(2, bits + 1), work.weights, strict=True)
        ]
        linear, square = (np.sum(part, axis=0) for part in zip(*of_every_k, strict=True))
        take_scales(chosen.scales, rows, linear, square)


def _packed(first: QuantizedTensor, chosen: Chosen, table: Float32) -> QuantizedTensor:
    scale, _ = chosen.scales.parts()
    return replace(first, weight=pack(chosen.codes, first.scheme.bits), scale=scale, codebook=table)
