"""Chance that can be looked up: numbers in [0, 1) as a function of seed, position and purpose.

Philox 4×64 (Salmon et al. 2011) is a counter-based generator: the block of numbers at a counter is a hash of key and counter. The key is
the request's seed, the counter the position of the token in its sequence, so what a sequence draws depends on nothing else: not on its
batch, on threads, or on work that was thrown away and done again.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["pick", "uniform", "uniforms"]

#: each purpose has its own stream; numbers are part of the meaning of a seed and stay
_PURPOSES = {"token": 0, "accept": 1, "residual": 2, "draft": 3, "beams": 4}
Purpose = Literal["token", "accept", "residual", "draft", "beams"]


def uniforms(seed: int, position: int, purpose: Purpose, count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1), multiples of 2⁻⁵³.

    Args:
        seed: 0…2⁶⁴ − 1.
        position: of the token in its sequence.
        purpose: what they are for.
        count: how many.
    """
    # the counter's lowest word counts blocks of one draw, and is left to the generator
    generator = np.random.Philox(key=seed, counter=(position << 64) | (_PURPOSES[purpose] << 128))
    return np.asarray((generator.random_raw(count) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def uniform(seed: int, position: int, purpose: Purpose = "token") -> float:
    """One number in [0, 1)."""
    return float(uniforms(seed, position, purpose, 1)[0])


def pick(probabilities: NDArray[np.float64], chance: float) -> int:
    """Index drawn by inversion: the first whose cumulative sum is above `chance` times the whole.

    Args:
        probabilities: not negative, with a positive sum; need not add up to 1.
        chance: in [0, 1).
    """
    ends = np.cumsum(probabilities)
    index = int(np.searchsorted(ends, chance * ends[-1], side="right"))
    # rounding may put the product at the end itself: take the last one that is possible
    return min(index, int(np.flatnonzero(probabilities)[-1]))
