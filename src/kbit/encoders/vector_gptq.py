"""GPTQ over vectors: a code's columns are rounded together, and later ones make up for their errors.

As `kbit.encoders.gptq`, with H = R Rᵀ: a row loses Σ_V ‖e_V R_VV + v_V‖² over its vectors V = `dims` neighbouring columns, where v_V
comes from the errors of columns before V and R_VV is the triangle of V's own. So the entry c of V minimises

    ‖(w_V − scale · c) R_VV + v_V‖²

over the whole codebook: errors inside a vector weigh by the triangle, not each for itself. (Tseng et al., "QuIP#", 2024, §4.3, call the
block form BlockLDLQ.) Scales are decided group by group for the weights as compensated by then, as for other grids.

A fitted codebook is then fitted again, to codes and scales as they are, under H (`kbit.encoders.vector_refit`), and all is encoded once
more.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.encoders.hessian import damped_factor
from kbit.encoders.vector_nearest import encode_groups
from kbit.encoders.vector_refit import refit_codebook
from kbit.encoders.vectors import VectorGroups
from kbit.tensor.blocks import BlockLayout, rows_of_tiles, tiles_of_rows
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor, stored_vectors
from kbit.tensor.scales import decode_scale

__all__ = ["best_entries", "encode_vector_matrix"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


def encode_vector_matrix(
    weights: Float32,
    first: QuantizedTensor,
    hessian: Array,
    diagonal: Float32,
    name: str,
    damping: float,
    block: int,
    threads: int,
    *,
    refit: bool,
) -> QuantizedTensor:
    """One matrix [rows, cols]; `first` is its nearest encoding, whose codebook is where to start, and stays as it is unless `refit`."""
    dims = first.scheme.dims
    order = _order(diagonal, dims) if "actorder" in first.scheme.methods else np.arange(len(diagonal))
    factor = damped_factor(hessian[np.ix_(order, order)], name, damping=damping).astype(np.float32)
    columns, importance = weights.T[order], diagonal if "imp" in first.scheme.methods else None
    for last in (False, True) if refit and first.codebook is not None else (True,):
        work = _Work(columns, factor, first, order, importance)
        codes = work.run(max(block // dims, 1) * dims)
        if not last:
            fitted = refit_codebook(columns.T, codes.T, work.value[:, work.group], factor @ factor.T, first.levels)
            first = replace(first, codebook=stored_vectors(fitted))
    planes = pack(np.ascontiguousarray(codes[np.argsort(order[::dims])].T), first.scheme.bits, threads=threads)
    return replace(first, weight=planes, scale=tiles_of_rows(work.stored))


def best_entries(target: Float32, scale: Float32, table: Float32) -> Bytes:
    """Entry of `table` [n, dims] with the least ‖target − scale · entry‖² for each column of `target` [dims, rows]; scale [rows]."""
    half = np.square(table).sum(1, keepdims=True) * np.float32(0.5)
    best: npt.NDArray[np.intp] = np.argmax(scale * (table @ target) - np.square(scale) * half, axis=0)
    return best.astype(np.uint8)


def _order(diagonal: Float32, dims: int) -> npt.NDArray[np.intp]:
    """Columns by falling importance of their vector; the last vector stays last where it is not whole."""
    cols = np.arange(len(diagonal))
    whole = len(diagonal) // dims
    vectors = np.argsort(-diagonal[: whole * dims].reshape(whole, dims).sum(1), kind="stable")
    return np.concatenate([cols[: whole * dims].reshape(whole, dims)[vectors].reshape(-1), cols[whole * dims :]])


class _Work:
    """One matrix at work: columns lie as rows, in the order in which they are encoded."""

    def __init__(
        self, columns: Float32, factor: Float32, first: QuantizedTensor, order: npt.NDArray[np.intp], importance: Float32 | None
    ) -> None:
        self.columns, self.factor, self.first, self.importance = columns, factor, first, importance
        self.codebook, self.dims = first.levels, first.scheme.dims
        self.group_size = BlockLayout.of(first.scheme, *first.shape).group_size
        self.group = order // self.group_size
        self.dynamic = first.scheme.scale_dtype != "dq8" and "actorder" not in first.scheme.methods
        rows = first.shape[0]
        self.stored = rows_of_tiles(first.scale, rows).copy()
        self.value: Float32 = rows_of_tiles(decode_scale(first.scale, first.super_scale, first.scheme.scale_dtype), rows).copy()
        self.error = np.zeros_like(columns)
        self.codes = np.empty((-(-len(columns) // self.dims), rows), np.uint8)

    def run(self, block: int) -> Bytes:
        """Codes [vectors of a row, rows]; `block` columns, whole vectors, lie between two matrix products."""
        cols = len(self.columns)
        span = self.group_size if self.dynamic else block
        for begin in range(0, cols, span):
            end = min(begin + span, cols)
            carried = self.factor[:begin, begin:end].T @ self.error[:begin]
            if self.dynamic:
                self._decide(begin, end, carried)
            for start in range(begin, end, block):
                stop = min(start + block, end)
                self._round(start, stop, carried[start - begin : stop - begin])
                carried[stop - begin :] += self.factor[start:stop, stop:end].T @ self.error[start:stop]
        return self.codes

    def _decide(self, begin: int, end: int, carried: Float32) -> None:
        corner = self.factor[begin:end, begin:end].astype(np.float64)
        current = self.columns[begin:end] + np.linalg.solve(corner.T, carried).astype(np.float32)
        importance = None if self.importance is None else self.importance[begin:end]
        groups = VectorGroups.of(np.ascontiguousarray(current.T), importance, end - begin, self.dims)
        super_scale = self.first.super_scale
        unit = 0.0 if super_scale is None else float(super_scale[0])
        _, encoded = encode_groups(groups, self.first.scheme, self.codebook, current.shape[1], unit)
        group = begin // self.group_size
        self.stored[:, group] = rows_of_tiles(encoded.scale, current.shape[1])[:, 0]
        self.value[:, group] = rows_of_tiles(decode_scale(encoded.scale, super_scale, self.first.scheme.scale_dtype), current.shape[1])[
            :, 0
        ]

    def _round(self, start: int, stop: int, carried: Float32) -> None:
        """Round columns start…stop; `carried` is their v so far, and is used up."""
        for begin in range(start, stop, self.dims):
            end = min(begin + self.dims, stop)
            value, triangle = self.value[:, self.group[begin]], self.factor[begin:end, begin:end]
            entries = self.codebook[:, : end - begin]
            target = triangle.T @ self.columns[begin:end] + carried[begin - start : end - start]
            codes = best_entries(target, value, entries @ triangle)
            self.codes[begin // self.dims] = codes
            self.error[begin:end] = self.columns[begin:end] - value * entries[codes].T
            carried[end - start :] += self.factor[begin:end, end:stop].T @ self.error[begin:end]
