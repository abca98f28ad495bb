"""How a beam search weighs and ends, as a value."""

import math
from dataclasses import dataclass
from typing import Literal

from kbit.core.errors import SchemeError
from kbit.engine.checks import check_count, check_number

__all__ = ["BeamOptions"]


@dataclass(frozen=True, slots=True)
class BeamOptions:
    """As transformers names and means them.

    Attributes:
        beams: continuations kept at each step.
        length_penalty: the score of a finished one is its log-probability / length ** length_penalty: above 0 favours long texts.
        early_stopping: when to end. True: as soon as `beams` have finished; False: when the best running one, at its present length, is no
            better than the worst finished one; "never": when it could not be better at any length that `max_tokens` allows.
        returned: of the finished, so many are returned, best first.

    Raises:
        SchemeError: a value out of range.
    """

    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    returned: int = 1

    def __post_init__(self) -> None:
        check_count("beams", self.beams, 1)
        check_number("length_penalty", self.length_penalty, -math.inf)
        check_count("returned", self.returned, 1, self.beams)
        if self.early_stopping not in (True, False, "never"):
            raise SchemeError(f"expected early_stopping to be True, False or 'never', got {self.early_stopping!r}")
