"""The code of K bits that serves every k: that of the least Σ_k λ_k (v_k − level_k[c >> (K − k)])², v_k what the first k bits aim at.

But for what no code changes, it is linear in the v_k, and so one matrix product for all codes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Chooser", "JointCodes", "joint_weights"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class JointCodes:
    """Codes of K bits and what their first k bits stand for.

    Attributes:
        bits: K.
        table: float32 [2 · 2^K], the levels of k bits at 2^k.
        weights: λ_k for k = 2…K, float64 [K − 1], not negative and not all 0.
    """

    bits: int
    table: Float32
    weights: Float64

    def levels(self) -> Float32:
        """What each code stands for at each k, float32 [K − 1, 2^K]."""
        codes = np.arange(1 << self.bits)
        return np.stack([self.table[(1 << k) + (codes >> (self.bits - k))] for k in range(2, self.bits + 1)])

    def chooser(self) -> "Chooser":
        """Chooses codes for targets of each k."""
        levels = self.levels()
        weighed = self.weights[:, None] * levels.astype(np.float64)
        return Chooser(levels, (weighed * levels).sum(axis=0), -2 * weighed)


@dataclass(frozen=True, slots=True, eq=False)
class Chooser:
    """Σ_k λ_k (v_k − level)² of every code, less what no code changes: `constant` + v · `slope`; and the levels."""

    levels: Float32
    constant: Float64
    slope: Float64

    def __call__(self, targets: Float32, scale: Float32) -> tuple[Bytes, Float32]:
        """(codes [n], what they amount to at each k, [K − 1, n]) for targets [K − 1, n] and scales [n]; the first of equals."""
        divisor = np.where(scale == 0, np.float32(1), scale).astype(np.float64)
        units = np.where(scale == 0, 0.0, targets / divisor)
        codes = (units.T @ self.slope + self.constant).argmin(axis=1).astype(np.uint8)
        return codes, self.levels[:, codes] * scale


def joint_weights(shares: tuple[float, ...], losses: Float64) -> Float64:
    """λ_k = share_k / loss_k for k = 2…, in parts of the largest: `shares` by k, `losses` [K − 1]; losses of 0 count as very small ones."""
    own = np.array(shares[2 : 2 + len(losses)])
    weights = own if losses.max() == 0 else own / np.maximum(losses, 1e-9 * losses.max())
    return np.asarray(weights / weights.max())
