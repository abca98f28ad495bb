"""The trellis encoder in native code: shapes and dtypes are checked here, before pointers are taken (csrc/include/kbit/trellis.h)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import DTypeError, ShapeError
from kbit.native import _kbit
from kbit.native.encoding import SCALE_KINDS

__all__ = ["TrellisCode", "compensate", "path", "scales"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint16]

_LEVELS = 64
_NO_FLOATS: Floats = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class TrellisCode:
    """A trellis of `bits` (1…4) bits a step, and the 64 `levels` that its states choose among."""

    bits: int
    levels: Floats

    def __post_init__(self) -> None:
        if self.bits not in range(1, 5):
            raise ShapeError(f"expected a trellis of 1…4 bits a step, got {self.bits}")
        _check(self.levels, (_LEVELS,), "levels")


def scales(
    code: TrellisCode,
    weights: Floats,
    group_size: int,
    parts: Sequence[float],
    refits: int,
    *,
    importance: Floats | None = None,
    scale_dtype: str = "fp16",
    super_scale: float = 0.0,
    threads: int = 0,
) -> tuple[Words, Floats]:
    """(bits of the stored scales, what they mean), [rows, groups]: for each group the one with the least error of a best path.

    Args:
        code: the trellis.
        weights: float32 [rows, cols].
        group_size: columns that share a scale, 1…cols.
        parts: scales to try, in parts of the one that gives the levels the spread of the weights.
        refits: how often, at most, the best of them is fitted to its path.
        importance: weights of the squared error, float32 [cols] or [rows, cols].
        scale_dtype: ``fp16`` or ``e4m3``.
        super_scale: what e4m3 scales are multiples of.
        threads: 0 for the default; the result does not depend on it.
    """
    rows, cols = _matrix(weights)
    _check_group_size(group_size, cols)
    if scale_dtype not in ("fp16", "e4m3"):
        raise ShapeError(f"expected scales of fp16 or e4m3, got {scale_dtype!r}")
    flat, stride = _importance(importance, rows, cols)
    stored = np.empty((rows, -(-cols // group_size)), np.uint16)
    value = np.empty(stored.shape, np.float32)
    kind, tried = SCALE_KINDS[scale_dtype], np.asarray(parts, np.float32)
    if tried.ndim != 1 or not tried.size or not (tried > 0).all():
        raise ShapeError(f"expected at least one scale to try, all above 0, got {list(parts)}")
    _kbit.trellis_scales(
        code.bits, code.levels, weights.reshape(-1), flat, stride, rows, cols, group_size, tried, refits, kind, super_scale,
        stored.reshape(-1), value.reshape(-1), threads,
    )  # fmt: skip
    return stored, value


def path(
    code: TrellisCode, weights: Floats, group_size: int, value: Floats, *, importance: Floats | None = None, threads: int = 0
) -> Bytes:
    """Steps uint8 [rows, cols] of each row's best path from state 0, for scales `value` [rows, groups]."""
    rows, cols = _matrix(weights)
    _check_group_size(group_size, cols)
    _check(value, (rows, -(-cols // group_size)), "scales")
    flat, stride = _importance(importance, rows, cols)
    steps = np.empty((rows, cols), np.uint8)
    _kbit.trellis_path(
        code.bits, code.levels, weights.reshape(-1), flat, stride, rows, cols, group_size, value.reshape(-1), steps.reshape(-1), threads
    )
    return steps


def compensate(
    code: TrellisCode, weights: Floats, carried: Floats, factor: Floats, scale: Floats, state: Words, keep: int, *, threads: int = 0
) -> tuple[Bytes, Floats]:
    """(steps uint8, errors float32), [rows, keep], of columns whose errors are made up for by those after them.

    Args:
        code: the trellis.
        weights: float32 [rows, cols] of the block's columns.
        carried: Σ error · R of all columns before the block, float32 [rows, cols].
        factor: R of the block, float32 [cols, cols], upper triangular.
        scale: scale of each weight's group, float32 [rows, cols].
        state: uint16 [rows], the state before the block; it becomes the one after `keep` columns.
        keep: columns that are decided, 1…cols; those after them only look ahead.
        threads: 0 for the default; the result does not depend on it.
    """
    rows, cols = _matrix(weights)
    for part, name in ((carried, "carried errors"), (scale, "scales")):
        _check(part, (rows, cols), name)
    _check(factor, (cols, cols), "a factor")
    if state.dtype != np.uint16 or state.shape != (rows,) or not state.flags.c_contiguous:
        raise DTypeError(f"expected states of uint16 [{rows}], got {state.dtype} {list(state.shape)}")
    if not 1 <= keep <= cols:
        raise ShapeError(f"expected to keep 1…{cols} columns, got {keep}")
    steps, error = np.empty((rows, cols), np.uint8), np.empty((rows, cols), np.float32)
    _kbit.trellis_compensate(
        code.bits, code.levels, weights.reshape(-1), carried.reshape(-1), factor.reshape(-1), scale.reshape(-1), rows, cols, keep, state,
        steps.reshape(-1), error.reshape(-1), threads,
    )  # fmt: skip
    return steps[:, :keep], error[:, :keep]


def _matrix(weights: Floats) -> tuple[int, int]:
    if weights.ndim != 2 or 0 in weights.shape:
        raise ShapeError(f"expected a matrix of at least one row and column, got shape {list(weights.shape)}")
    _check(weights, weights.shape, "weights")
    return weights.shape[0], weights.shape[1]


def _importance(importance: Floats | None, rows: int, cols: int) -> tuple[Floats, int]:
    if importance is None:
        return _NO_FLOATS, 0
    if importance.shape not in ((cols,), (rows, cols)):
        raise ShapeError(f"expected importance of shape ({cols},) or ({rows}, {cols}), got {importance.shape}")
    _check(importance, importance.shape, "importance")
    return importance.reshape(-1), cols if importance.ndim == 2 else 0


def _check(array: Array, shape: tuple[int, ...], name: str) -> None:
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise DTypeError(f"expected {name} as a contiguous float32 array, got {array.dtype}")
    if array.shape != shape:
        raise ShapeError(f"expected {name} of shape {list(shape)}, got {list(array.shape)}")


def _check_group_size(group_size: int, cols: int) -> None:
    if not 1 <= group_size <= cols:
        raise ShapeError(f"expected a group size of 1…{cols}, the columns of a row, got {group_size}")
