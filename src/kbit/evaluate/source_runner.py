"""A model that encodes one text and decodes another, in kbit's engine, as `bench` drives it. Needs no torch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from kbit.engine.engine_pair import EncoderDecoderEngine
from kbit.engine.feeds import Feed
from kbit.evaluate.engine_runner import engine_threads

__all__ = ["SourceRunner"]


class SourceRunner:
    """The prompt is the text that is encoded; tokens are then written from the decoder's first on."""

    name = "engine"

    def __init__(self, engine: EncoderDecoderEngine) -> None:
        self.engine = engine
        sides = (engine.plan.encoder, engine.plan.decoder)
        self.vocabulary = min(side.vocabulary for side in sides)
        self.positions = min((side.context for side in sides if side.context), default=None)
        self.weight_bytes_per_token = engine.weight_bytes_per_token
        self._sequence: int | None = None
        self._next = 0

    @classmethod
    def load(cls, path: Path | str, *, mode: str = "fast", bits: int | None = None) -> Self:
        """The engine over a model's folder (errors as `EncoderDecoderEngine.load`)."""
        return cls(EncoderDecoderEngine.load(path, mode=mode, bits=bits))

    def threads(self, count: int) -> AbstractContextManager[int]:
        """See `Runner.threads`."""
        return engine_threads(self.engine, count)

    def prefill(self, tokens: Sequence[int]) -> None:
        """See `Runner.prefill`: encodes the text, and computes the logits of the first token."""
        if self._sequence is not None:
            self.engine.free(self._sequence)
        self._sequence = None
        self._sequence = self.engine.sequence(tokens)
        self._next = self.engine.start or 0
        self.decode()

    def decode(self) -> None:
        """See `Runner.decode`."""
        assert self._sequence is not None, "a prompt comes first"
        self._next = int(self.engine.step([Feed(self._sequence, [self._next])])[0].argmax())
