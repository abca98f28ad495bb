"""Levels of every k of nested codes for codes that are chosen: least squares under the Hessian, by conjugate gradients.

ŵ is linear in the 2^k levels of k bits, so their loss is a quadratic of as many unknowns. Its matrix is never made: it is applied by one
product with H, to some hundred rows of each matrix (Hestenes and Stiefel, "Methods of conjugate gradients", 1952; preconditioned by the
diagonal). Levels have to ascend, which pooling of neighbours sees to (isotonic regression, Barlow et al. 1972). What then loses no less
than before is not taken.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from kbit.encoders.refine import Chosen
from kbit.grids.nested import distinct

__all__ = ["ascending", "fit_levels"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: rows of a matrix that teach the levels, at even distances
_ROWS = 512
_ITERATIONS = 12


def fit_levels(matrices: Sequence[Chosen], table: Float32, bits: int) -> Float32:
    """Levels of every k, float32 [2 · 2^bits], for matrices that share those of `table`; k = 1 stays; all do without a matrix."""
    if not matrices:
        return table
    fitted = table.copy()
    views = [_View(matrix) for matrix in matrices]
    for k in range(2, bits + 1):
        part = slice(1 << k, 2 << k)
        fitted[part] = _fitted(views, table[part], bits - k, strict=k == bits)
    return fitted


class _View:
    """The rows of a matrix that teach."""

    def __init__(self, matrix: Chosen) -> None:
        rows = slice(0, None, -(-len(matrix.weights) // _ROWS))
        self.hessian, self.codes, self.weights = matrix.hessian, matrix.codes[rows], matrix.weights[rows]
        self.scale = matrix.scales.value[rows][:, matrix.group]

    def sums(self, nodes: npt.NDArray[np.uint8], values: Float32, count: int) -> Float64:
        """Σ over the weights of each node of scale · (values H), [count]."""
        return np.asarray(np.bincount(nodes.ravel(), ((values @ self.hessian) * self.scale).ravel(), count), np.float64)


def _fitted(views: Sequence[_View], levels: Float32, dropped: int, *, strict: bool) -> Float32:
    count, start = levels.size, levels.astype(np.float64)
    nodes = [view.codes >> np.uint8(dropped) for view in views]

    def applied(step: Float64) -> Float64:
        told = step.astype(np.float32)
        return np.asarray(
            np.sum([view.sums(node, told[node] * view.scale, count) for view, node in zip(views, nodes, strict=True)], axis=0)
        )

    slope, mass = np.zeros(count), np.zeros(count)
    for view, node in zip(views, nodes, strict=True):
        slope += view.sums(node, view.weights - levels[node] * view.scale, count)
        mass += np.bincount(node.ravel(), (np.diagonal(view.hessian) * np.square(view.scale)).ravel(), count)
    risen = ascending(start + _solved(applied, slope, mass), mass)
    moved = (distinct(risen) if strict else risen).astype(np.float32)
    step = moved.astype(np.float64) - start
    gain = 2 * float(slope @ step) - float(step @ applied(step))
    return moved if np.isfinite(moved).all() and gain > 0 else levels


def _solved(applied: Callable[[Float64], Float64], slope: Float64, mass: Float64) -> Float64:
    """Some steps of conjugate gradients towards applied(x) = slope; x is 0 where there is no mass."""
    diagonal = np.where(mass > 0, mass, 1.0)
    found, left = np.zeros_like(slope), np.where(mass > 0, slope, 0.0)
    towards = left / diagonal
    size = float(left @ towards)
    for _ in range(_ITERATIONS):
        image = applied(towards)
        curve = float(towards @ image)
        if size <= 0 or curve <= 0:
            break
        found, left = found + size / curve * towards, left - size / curve * image
        ahead = left / diagonal
        size, before = float(left @ ahead), size
        towards = ahead + size / before * towards
    return found


def ascending(levels: Float64, mass: Float64) -> Float64:
    """The nearest levels that do not descend, in squares weighed by `mass`; those without mass give way."""
    weights = np.maximum(mass, 1e-12 * max(float(mass.max()), 1e-300))
    pools: list[tuple[float, float, int]] = []
    for level, weight in zip(levels.tolist(), weights.tolist(), strict=True):
        pool = (level, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, held, length = pools.pop()
            total = held + pool[1]
            pool = ((mean * held + pool[0] * pool[1]) / total, total, length + pool[2])
        pools.append(pool)
    return np.repeat([mean for mean, _, _ in pools], [length for _, _, length in pools])
