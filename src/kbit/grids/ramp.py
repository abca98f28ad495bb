"""The float32 ramp that the published NormalFloat and dynamic maps start from.

Both maps were made by single-precision code, and their published values carry its rounding. Levels must equal them to the last
bit, because files made elsewhere hold them.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["float32_ramp"]


def float32_ramp(start: float, stop: float, count: int) -> npt.NDArray[np.float32]:
    """`count` evenly spaced float32 values from `start` to `stop`, both included; count >= 2.

    The step is rounded to float32; values of the first half are counted up from `start`, the others down from `stop`, each
    rounded once (a fused multiply-add). The float64 products and sums here are exact, so every machine gives the same bits.
    """
    first, last = np.float32(start), np.float32(stop)
    step = np.float64((last - first) / np.float32(count - 1))
    index = np.arange(count, dtype=np.float64)
    upward = np.float64(first) + step * index
    downward = np.float64(last) - step * (count - 1 - index)
    return np.where(index < count // 2, upward, downward).astype(np.float32)
