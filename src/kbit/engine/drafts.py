"""Guesses of the next tokens, to be verified in one step of the model (`kbit.engine.speculate`)."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kbit.engine.history import History

__all__ = ["NO_DRAFT", "Draft", "Drafter"]


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may follow.

    Attributes:
        tokens: the guess.
        probabilities: the distributions from which they were drawn, float64 [len(tokens), vocabulary]; None for a guess without chance.
    """

    tokens: tuple[int, ...]
    probabilities: NDArray[np.float64] | None = None


NO_DRAFT = Draft(())


class Drafter(Protocol):
    """Guesses for one sequence."""

    def propose(self, history: History, count: int) -> Draft:
        """At most `count` tokens that may follow; none is an answer too."""
        ...

    def close(self) -> None:
        """The sequence has ended."""
        ...
