"""What generation needs of an engine: sequences in a KV cache, and steps that turn tokens into logits.

Everything above the forward step (sampling, beams, batches, speculation, text) stands on these six methods and two numbers, so it runs over
`kbit.engine.Engine`, over a test's fake, or over anything else that keeps the contract.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Feed", "Stepper", "Wanted"]


Wanted = Literal["last", "all", "none"]


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens that one sequence takes in one step.

    Attributes:
        sequence: handle of the sequence.
        tokens: token ids, at least one.
        wanted: rows of logits asked for: those after the ``last`` token, after ``all`` of them, or ``none``.
    """

    sequence: int
    tokens: tuple[int, ...] | NDArray[np.int32]
    wanted: Wanted = "last"


@runtime_checkable
class Stepper(Protocol):
    """Sequences and steps.

    A row's logits depend on its own sequence alone, byte for byte, never on what else is in the step, nor on the steps in which the tokens
    before it came. A call that raises `LimitError` (the cache is full) has changed nothing.

    Attributes:
        vocabulary: tokens of the model; logits are that wide.
        context: positions a sequence may have; 0 for no limit.
    """

    vocabulary: int
    context: int

    def sequence(self) -> int:
        """A new, empty sequence in the KV cache."""
        ...

    def fork(self, sequence: int, length: int | None = None) -> int:
        """A new sequence that shares the first `length` positions of another (all by default)."""
        ...

    def truncate(self, sequence: int, length: int) -> None:
        """Forget all positions from `length` on."""
        ...

    def free(self, sequence: int) -> None:
        """Give the sequence back; its handle is void."""
        ...

    def length(self, sequence: int) -> int:
        """Positions that the sequence holds."""
        ...

    def step(self, feeds: Sequence[Feed]) -> NDArray[np.float32]:
        """Run the feeds, one a sequence at most: logits [wanted rows in order, vocabulary]."""
        ...
