"""`ReferenceEncoderDecoder`: the reference of models that encode one text and decode another."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kbit.engine.feeds import Feed
from kbit.engine.ops import EncoderDecoderPlan
from kbit.engine.reference import ReferenceEngine
from kbit.engine.weights import ModelWeights

__all__ = ["ReferenceEncoderDecoder"]


class ReferenceEncoderDecoder:
    """Sequences of the decoder, each over the memory of a source text. Like `ReferenceEngine` but for `sequence`.

    Args:
        plan: of both sides.
        weights: of the model.
    """

    def __init__(self, plan: EncoderDecoderPlan, weights: ModelWeights) -> None:
        self.plan = plan
        self._encoder, self._decoder = ReferenceEngine(plan.encoder, weights), ReferenceEngine(plan.decoder, weights)

    def encode(self, source: Sequence[int]) -> NDArray[np.float32]:
        """Hidden states of a text, [tokens, width].

        Raises:
            As `Feed` and `check_feeds`.
        """
        sequence = self._encoder.sequence()
        try:
            return self._encoder.step([Feed(sequence, source, "all")])
        finally:
            self._encoder.free(sequence)

    def sequence(self, source: Sequence[int]) -> int:
        """A new, empty sequence of the decoder over a text, which is encoded now.

        Raises:
            As `Feed` and `check_feeds`.
        """
        encoded = self._encoder.sequence()
        try:
            self._encoder.step([Feed(encoded, source, "none")])
            return self._decoder.sequence(self._encoder.memory(encoded))
        finally:
            self._encoder.free(encoded)

    def fork(self, sequence: int, length: int | None = None) -> int:
        """As `ReferenceEngine.fork`; the memory is shared."""
        return self._decoder.fork(sequence, length)

    def truncate(self, sequence: int, length: int) -> None:
        """As `ReferenceEngine.truncate`."""
        self._decoder.truncate(sequence, length)

    def free(self, sequence: int) -> None:
        """As `ReferenceEngine.free`."""
        self._decoder.free(sequence)

    def length(self, sequence: int) -> int:
        """As `ReferenceEngine.length`."""
        return self._decoder.length(sequence)

    def step(self, feeds: Sequence[Feed]) -> NDArray[np.float32]:
        """As `ReferenceEngine.step`, of the decoder."""
        return self._decoder.step(feeds)
