"""A model in kbit's engine, as `bench` drives it. Needs no torch."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, Self

from kbit import native
from kbit.core.errors import ModelError
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed

__all__ = ["EngineRunner", "engine_threads"]


class EngineRunner:
    """One sequence of an engine.

    Raises:
        ModelError: an encoder, which writes no tokens.
    """

    name = "engine"

    def __init__(self, engine: Engine) -> None:
        if not engine.plan.causal:
            raise ModelError(f"expected a causal language model, got {engine.plan.architecture}, an encoder")
        self.engine = engine
        self.vocabulary, self.positions = engine.vocabulary, engine.context or None
        self.weight_bytes_per_token = engine.weight_bytes_per_token
        self._sequence = engine.sequence()
        self._next = 0

    @classmethod
    def load(cls, path: Path | str, *, mode: str = "fast", bits: int | None = None) -> Self:
        """The engine over a model's folder (errors as `Engine.load`)."""
        return cls(Engine.load(path, mode=mode, bits=bits))

    def threads(self, count: int) -> AbstractContextManager[int]:
        """See `Runner.threads`."""
        return engine_threads(self.engine, count)

    def prefill(self, tokens: Sequence[int]) -> None:
        """See `Runner.prefill`."""
        self.engine.truncate(self._sequence, 0)
        self._step(tokens)

    def decode(self) -> None:
        """See `Runner.decode`."""
        self._step([self._next])

    def _step(self, tokens: Sequence[int]) -> None:
        self._next = int(self.engine.step([Feed(self._sequence, tokens)])[0].argmax())


class _Threaded(Protocol):
    threads: int


@contextmanager
def engine_threads(engine: _Threaded, count: int) -> Iterator[int]:
    """Run an engine with `count` threads (0: all that may be used, never more than it was made with); gives the number."""
    before = engine.threads
    engine.threads = min(count or native.threads(), before)
    try:
        yield engine.threads
    finally:
        engine.threads = before
