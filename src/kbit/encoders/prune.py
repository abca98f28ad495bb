"""Which weights of a row get no code: those of the least score, equally many in every row.

    magnitude   |w|               Han, Pool, Tran, Dally: "Learning both Weights and Connections" (2015)
    Wanda       |w| · ‖x_j‖       Sun, Liu, Bair, Kolter: "A Simple and Effective Pruning Approach for Large Language Models" (2023)
    SparseGPT   w² / [H⁻¹]_jj     Frantar, Alistarh: "SparseGPT" (2023): for the weights as compensated by then, a run of columns at a time

The first two choose over whole rows; the third is part of `kbit.encoders.gptq`, where 1 / [H⁻¹]_jj of the columns that are left is R_jj².
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.parts import Parts

__all__ = ["least_scores", "truncated"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]


def least_scores(score: Array, spec: Parts, *, begin: int = 0, cols: int | None = None) -> Bools:
    """Weights to prune among columns [begin, begin + width) of rows with `cols` columns, by their scores [rows, width].

    Of equal scores the leftmost is kept. Runs of columns that follow each other prune as many of a row together as the whole row asks for;
    with N:M a run begins at a multiple of M.
    """
    rows, width = score.shape
    cols = width if cols is None else cols
    pruned = np.ones(score.shape, np.bool_)
    if spec.keep is None:
        kept = spec.kept(cols)
        _keep(pruned, score, kept * (begin + width) // cols - kept * begin // cols)
        return pruned
    n, m = spec.keep
    whole = width // m * m
    groups = pruned[:, :whole].reshape(rows * (whole // m), m)
    _keep(groups, score[:, :whole].reshape(groups.shape), n)
    pruned[:, :whole] = groups.reshape(rows, whole)
    if whole < width:
        rest = pruned[:, whole:].copy()
        _keep(rest, score[:, whole:], min(n, width - whole))
        pruned[:, whole:] = rest
    return pruned


def _keep(pruned: Bools, score: Array, count: int) -> None:
    """Keep the `count` largest of each row."""
    order = np.argsort(-score, axis=1, kind="stable")[:, :count]
    np.put_along_axis(pruned, order, False, axis=1)


def truncated(weights: Array, importance: Array, percent: float) -> Bools:
    """Weights below the largest threshold δ whose removal costs at most `percent` of the output's energy Σ h_j w².

    h_j is the mean square of input j (`importance`, [cols]); without correlations between inputs this is the share of the layer's output.
    """
    energy = weights.astype(np.float64) ** 2 * importance.astype(np.float64)
    magnitude = np.abs(weights).reshape(-1)
    order = np.argsort(magnitude, kind="stable")
    spent = np.cumsum(energy.reshape(-1)[order])
    count = int(np.searchsorted(spent, spent[-1] * percent / 100, side="right"))
    if count == magnitude.size:
        return np.ones(weights.shape, np.bool_)
    return np.asarray(np.abs(weights) < magnitude[order[count]])
