"""`EncoderDecoderEngine`: a model that encodes one text and decodes another, at the speed of memory.

    engine = EncoderDecoderEngine.load(folder)
    with engine.source(tokens) as stepper:          the text is encoded once
        generate(stepper, tokenizer, [engine.start])

A text's keys and values for the decoder's layers are computed once and remembered; sequences of the decoder read them, forks share them.
Each sequence has a text of its own length, and any number of them go in one step.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kbit.engine.cache import PAGE_POSITIONS, CacheFormat
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.engine.memory import Memory, MemoryFormat
from kbit.engine.ops import EncoderDecoderPlan
from kbit.engine.plan import make_encoder_decoder_plan
from kbit.engine.program import MAX_ROWS
from kbit.engine.source_stepper import SourceStepper
from kbit.engine.weights import HeldWeights, ModelWeights, open_weights
from kbit.kernels.cpu import Mode

__all__ = ["EncoderDecoderEngine"]


class EncoderDecoderEngine:
    """Sequences of the decoder, each over the memory of a source text. Like `Engine` but for `sequence`, which takes the text.

    Args:
        plan: of both sides.
        weights: of the model.
        mode, threads, cache, cache_positions: as for `Engine`; the cache is that of the decoder's own positions.
        memory: how what is remembered of a text is kept.
        memory_positions: room for so many tokens over all texts; by default what a quarter of the machine's memory holds.
        max_rows: rows of the decoder that are computed in one native call. A text is encoded in one, and has at most 4096 tokens.

    Attributes:
        plan: of both sides.
        vocabulary, context: of the decoder.
        start: token that the decoder's text begins with; None where the configuration has none.

    Raises:
        As `Engine`.
    """

    def __init__(
        self,
        plan: EncoderDecoderPlan,
        weights: ModelWeights,
        *,
        mode: Mode = "fast",
        threads: int = 0,
        cache: CacheFormat = "fp16",
        cache_positions: int | None = None,
        memory: MemoryFormat = "fp16",
        memory_positions: int | None = None,
        max_rows: int = 512,
    ) -> None:
        held = HeldWeights(weights.stored, weights.bits)
        self.plan, self.start = plan, plan.start
        encoder = replace(plan.encoder, context=min(plan.encoder.context or MAX_ROWS, MAX_ROWS))  # whole texts go in one call
        self._memory = Memory(plan, memory, memory_positions)
        both: dict[str, Any] = {"mode": mode, "threads": threads, "memory": self._memory}
        # an encoder's keys and values are of use within its step alone: kept as they are
        self._encoder = Engine(encoder, held, cache="fp32", cache_positions=encoder.context, max_rows=encoder.context, **both)
        self._decoder = Engine(plan.decoder, held, cache=cache, cache_positions=cache_positions, max_rows=max_rows, **both)
        held.forget()
        self.vocabulary, self.context = self._decoder.vocabulary, self._decoder.context
        self.weight_bytes_per_token = self._decoder.weight_bytes_per_token
        self._memories: dict[int, int] = {}
        self._lock = threading.RLock()

    @classmethod
    def load(cls, path: str | Path, *, mapped: bool = False, bits: int | None = None, **options: Any) -> Self:
        """The model of a folder; arguments and errors as for `Engine.load`."""
        with open_weights(path, mapped=mapped, bits=bits) as weights:
            return cls(make_encoder_decoder_plan(weights.stored.config, weights), weights, **options)

    @property
    def threads(self) -> int:
        """Of a step; may be set to fewer than the engine was made with."""
        return self._decoder.threads

    @threads.setter
    def threads(self, count: int) -> None:
        self._encoder.threads = self._decoder.threads = count

    def encode(self, source: Sequence[int]) -> NDArray[np.float32]:
        """Hidden states of a text, [tokens, width].

        Raises:
            As `Engine.step`.
        """
        with self._lock:
            memory = self._memory.create()
            try:
                return self._read([memory], [source], "all")
            finally:
                self._memory.leave(memory)

    def sequence(self, source: Sequence[int]) -> int:
        """A new, empty sequence of the decoder over a text, which is encoded now.

        Raises:
            As `Engine.step`.
        """
        return self.sequences([source])[0]

    def sequences(self, sources: Sequence[Sequence[int]]) -> list[int]:
        """New, empty sequences over texts, which are encoded together; each as it would be alone.

        Raises:
            As `Engine.step`; no sequence has been made then.
        """
        with self._lock:
            memories = [self._memory.create() for _ in sources]
            try:
                for begin, end in groups([len(source) for source in sources], self._encoder.max_rows):
                    self._read(memories[begin:end], sources[begin:end], "none")
            except BaseException:
                for memory in memories:
                    self._memory.leave(memory)
                raise
            sequences = [self._decoder.sequence(memory) for memory in memories]
            self._memories.update(zip(sequences, memories, strict=True))
            return sequences

    def source(self, source: Sequence[int]) -> SourceStepper:
        """What generation takes for a model (`kbit.engine.stepper`): every sequence there is over this text, which is encoded now.

        Raises:
            As `Engine.step`.
        """
        return SourceStepper(self, self.sequence(source))

    def fork(self, sequence: int, length: int | None = None) -> int:
        """As `Engine.fork`; the memory is shared."""
        with self._lock:
            child = self._decoder.fork(sequence, length)
            self._memories[child] = self._memories[sequence]
            self._memory.share(self._memories[child])
            return child

    def truncate(self, sequence: int, length: int) -> None:
        """As `Engine.truncate`; the source text stays."""
        with self._lock:
            self._decoder.truncate(sequence, length)

    def free(self, sequence: int) -> None:
        """As `Engine.free`; the source text is forgotten with the last sequence that reads it."""
        with self._lock:
            self._decoder.free(sequence)
            self._memory.leave(self._memories.pop(sequence))

    def length(self, sequence: int) -> int:
        """As `Engine.length`, of the decoder's text."""
        return self._decoder.length(sequence)

    def step(self, feeds: Sequence[Feed]) -> NDArray[np.float32]:
        """As `Engine.step`, of the decoder."""
        with self._lock:
            return self._decoder.step(feeds)

    def _read(self, memories: Sequence[int], sources: Sequence[Sequence[int]], wanted: Any) -> NDArray[np.float32]:
        """Encode texts, each into its memory."""
        sequences = [self._encoder.sequence(memory) for memory in memories]
        try:
            return self._encoder.step([Feed(sequence, source, wanted) for sequence, source in zip(sequences, sources, strict=True)])
        finally:
            for sequence in sequences:
                self._encoder.free(sequence)


def groups(lengths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Ranges [begin, end) of texts that fit into so many positions together, in whole pages; one that does not is alone."""
    found: list[tuple[int, int]] = []
    begin = used = 0
    for index, length in enumerate(lengths):
        positions = -(-length // PAGE_POSITIONS) * PAGE_POSITIONS
        if used and used + positions > room:
            found.append((begin, index))
            begin, used = index, 0
        used += positions
    return [*found, (begin, len(lengths))] if lengths else []
