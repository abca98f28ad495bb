"""`SourceStepper`: the decoder of one source text, as generation wants a model: sequences that begin empty."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kbit.engine.feeds import Feed

__all__ = ["SourceStepper"]


class Decoder(Protocol):
    """The part of `kbit.engine.engine_pair.EncoderDecoderEngine` that is used here."""

    vocabulary: int
    context: int

    def fork(self, sequence: int, length: int | None = None) -> int: ...
    def truncate(self, sequence: int, length: int) -> None: ...
    def free(self, sequence: int) -> None: ...
    def length(self, sequence: int) -> int: ...
    def step(self, feeds: Sequence[Feed]) -> NDArray[np.float32]: ...


class SourceStepper:
    """A `kbit.engine.stepper.Stepper` over a source text. Leaving it, or `close`, forgets the text when its last sequence is freed.

    Args:
        engine: of the model.
        root: an empty sequence over the text, of which others are forks; it is freed by `close`.
    """

    def __init__(self, engine: Decoder, root: int) -> None:
        self.vocabulary, self.context = engine.vocabulary, engine.context
        self._engine, self._root = engine, root
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Make no sequences any more."""
        if self._open:
            self._open = False
            self._engine.free(self._root)

    def sequence(self) -> int:
        """A new, empty sequence over the text."""
        return self._engine.fork(self._root, 0)

    def fork(self, sequence: int, length: int | None = None) -> int:
        """As `Engine.fork`."""
        return self._engine.fork(sequence, length)

    def truncate(self, sequence: int, length: int) -> None:
        """As `Engine.truncate`."""
        self._engine.truncate(sequence, length)

    def free(self, sequence: int) -> None:
        """As `Engine.free`."""
        self._engine.free(sequence)

    def length(self, sequence: int) -> int:
        """As `Engine.length`."""
        return self._engine.length(sequence)

    def step(self, feeds: Sequence[Feed]) -> NDArray[np.float32]:
        """As `Engine.step`."""
        return self._engine.step(feeds)
