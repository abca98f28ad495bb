"""The tokens of one sequence, prompt and output, in an array that grows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["History"]


class History:
    """Tokens so far; `append` takes constant time, amortised, and `tokens` copies nothing.

    Args:
        prompt: ids of the prompt.
    """

    def __init__(self, prompt: Sequence[int] | NDArray[np.int32]) -> None:
        self.prompt_length = len(prompt)
        self._length = len(prompt)
        self._room = np.empty(max(64, 2 * len(prompt)), dtype=np.int32)
        self._room[: len(prompt)] = prompt

    def __len__(self) -> int:
        return self._length

    @property
    def tokens(self) -> NDArray[np.int32]:
        """All tokens, int32 [length]: a view, good until the next `append`."""
        return self._room[: self._length]

    @property
    def generated(self) -> NDArray[np.int32]:
        """The tokens after the prompt, a view."""
        return self._room[self.prompt_length : self._length]

    def append(self, token: int) -> None:
        """One more token."""
        if self._length == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[self._length] = token
        self._length += 1
