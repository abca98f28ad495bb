"""`Engine`: a model that takes tokens and answers with logits, at the speed of memory.

Everything above a forward step (sampling, beams, batches, speculation) stands on six calls: `sequence`, `fork`, `truncate`, `free`,
`length` and `step`. A row's logits depend on its own sequence only: what else is in the step, and how many threads there are, changes no
byte of them.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kbit import native
from kbit.core.errors import LimitError, ModelError, NumericsError, SchemeError, ShapeError
from kbit.core.registry import suggest
from kbit.engine.cache import PAGE_POSITIONS, CacheFormat, make_cache
from kbit.engine.calls import native_calls
from kbit.engine.feeds import Feed, Patches, check_feeds, rows_of, wanted_rows
from kbit.engine.memory import NO_MEMORY, Memory
from kbit.engine.ops import CrossAttention, ForwardPlan, Remember
from kbit.engine.plan import make_plan
from kbit.engine.program import MAX_ROWS, NativeProgram
from kbit.engine.traffic import weight_bytes_per_token
from kbit.engine.weights import ModelWeights, open_weights
from kbit.kernels.cpu import MODES, Mode

__all__ = ["CacheFormat", "Engine"]

_DEFAULT_ROWS = 512
_NO_NUMBERS = np.empty((0, 0), np.float32)


class Engine:
    """Sequences over a model's plan.

    Args:
        plan: what a step computes.
        weights: of the model.
        mode: ``fast`` (int8 activations) or ``exact`` (fp32, fixed order).
        threads: 0 for all that `kbit.native.threads` counts.
        cache: how keys and values are kept.
        cache_positions: room for so many positions over all sequences; by default what a quarter of the memory holds, at most 4 million.
        max_rows: rows that are computed in one native call; longer feeds go in several, but for those of an encoder: there it is at
            least the model's context.
        memory: what a plan with `Remember` or `CrossAttention` writes or reads; see `kbit.engine.engine_pair`.

    Raises:
        SchemeError: an unknown mode or cache format.
        ModelError: one side of an encoder with a decoder, without a memory.
        LimitError: no memory for the cache.
    """

    def __init__(
        self,
        plan: ForwardPlan,
        weights: ModelWeights,
        *,
        mode: Mode = "fast",
        threads: int = 0,
        cache: CacheFormat = "fp16",
        cache_positions: int | None = None,
        max_rows: int = _DEFAULT_ROWS,
        memory: Memory | None = None,
    ) -> None:
        if mode not in MODES:
            raise SchemeError(f"unknown mode {mode!r}: {suggest(mode, MODES)}")
        remembers = any(isinstance(op, Remember) for op in plan.ops)
        if memory is None and (remembers or any(isinstance(op, CrossAttention) for op in plan.ops)):
            raise ModelError("expected a memory for one side of an encoder with a decoder, got none: EncoderDecoderEngine runs both")
        self.plan, self.mode = plan, mode
        self.threads = threads or native.threads()
        self.vocabulary, self.context = plan.vocabulary, plan.context
        self.max_rows = max_rows if plan.causal else max(max_rows, min(plan.context, MAX_ROWS))
        self.weight_bytes_per_token = weight_bytes_per_token(plan, weights)
        self._program = NativeProgram(plan, weights, max_rows=self.max_rows, threads=self.threads)
        self._cache = make_cache(plan.layers, plan.kv_heads, plan.head_dim, cache, cache_positions)
        self._memory, self._remembers = memory, remembers
        self._lengths: dict[int, int] = {}
        self._memories: dict[int, int] = {}
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str | Path, *, mapped: bool = False, context: int | None = None, bits: int | None = None, **options: Any) -> Self:
        """The model of a folder, packed by kbit or in 16 or 32 bits; its weights are read straight into huge pages.

        Args:
            path: the folder.
            mapped: use the file's own pages instead, read by the system as they are needed: the quickest start and the least memory, some
                percent slower ever after, and only for files that nobody writes to meanwhile.
            context: positions that will be used, for models whose rotary embeddings depend on it; by default what they were trained with.
            bits: run the first so many bits of a model of nested codes, or the first levels of cascades, which have so many together.
            options: of the engine.

        Raises:
            ModelError: an architecture or option that the engine does not do, or `bits` of a model without either.
            SchemeError: more `bits` than there are, or no such levels.
            FormatError, IntegrityError, StorageError: a folder that cannot be read.
        """
        with open_weights(path, mapped=mapped, bits=bits) as weights:
            return cls(make_plan(weights.stored.config, weights, context), weights, **options)

    @property
    def workspace_bytes(self) -> int:
        """Memory that a step works in, besides weights and cache."""
        return self._program.workspace_bytes

    @property
    def cache_bytes_per_position(self) -> float:
        """Memory of one cached position, over all layers and heads."""
        return float(self._cache.page_bytes()) / PAGE_POSITIONS

    def sequence(self, memory: int = NO_MEMORY) -> int:
        """A new, empty sequence, over a memory where the plan has operations on one.

        Raises:
            NumericsError: no such memory.
        """
        if self._memory is not None and memory not in self._memory:
            raise NumericsError(f"memory {memory} is not alive: expected the handle of a text that is remembered")
        with self._lock:
            handle: int = self._cache.create()
            self._lengths[handle], self._memories[handle] = 0, memory
            return handle

    def fork(self, sequence: int, length: int | None = None) -> int:
        """A new sequence of the first `length` positions of another (all by default), which shares their memory.

        Raises:
            NumericsError: a sequence that is not alive.
            ShapeError: more positions than it has.
        """
        with self._lock:
            length = self._checked(sequence, length)
            handle: int = self._cache.fork(sequence, length)
            self._lengths[handle], self._memories[handle] = length, self._memories[sequence]
            return handle

    def truncate(self, sequence: int, length: int) -> None:
        """Forget all positions from `length` on (errors as for `fork`)."""
        with self._lock:
            self._cache.truncate(sequence, self._checked(sequence, length))
            self._lengths[sequence] = length

    def free(self, sequence: int) -> None:
        """Forget a sequence (`NumericsError` for one that is not alive)."""
        with self._lock:
            self._checked(sequence, None)
            self._cache.release(sequence)
            del self._lengths[sequence], self._memories[sequence]

    def length(self, sequence: int) -> int:
        """Positions that a sequence has (`NumericsError` for one that is not alive)."""
        with self._lock:
            return self._checked(sequence, None)

    def step(self, feeds: Sequence[Feed | Patches]) -> NDArray[np.float32]:
        """Append tokens (of an image: rows of numbers) to sequences, and answer with the outputs of the rows that are wanted.

        A step that fails, or that Ctrl-C ends between two native calls, leaves every sequence as it was.

        Returns:
            Logits [wanted rows, vocabulary] (hidden states for a model without a head), in the order of the feeds and their tokens.

        Raises:
            ShapeError, NumericsError, LimitError: as `check_feeds`; LimitError too where the cache has no room.
        """
        with self._lock:
            check_feeds(feeds, self.plan, self._lengths)
            try:
                self._reserve(feeds)
                result = self._run(feeds)
            except BaseException:
                for feed in feeds:
                    self._cache.truncate(feed.sequence, self._lengths[feed.sequence])
                raise
            for feed in feeds:
                self._lengths[feed.sequence] += rows_of(feed)
            return result

    def _checked(self, sequence: int, length: int | None) -> int:
        if sequence not in self._lengths:
            raise NumericsError(f"sequence {sequence} is not alive: expected one of {len(self._lengths)} that are")
        if length is not None and not 0 <= length <= self._lengths[sequence]:
            raise ShapeError(f"sequence {sequence}: expected a length of 0…{self._lengths[sequence]}, got {length}")
        return self._lengths[sequence] if length is None else length

    def _reserve(self, feeds: Sequence[Feed | Patches]) -> None:
        for feed in feeds:
            if not self._cache.reserve(feed.sequence, rows_of(feed)):
                raise LimitError(
                    f"sequence {feed.sequence}: no room in the cache for {rows_of(feed)} positions more "
                    f"({self._cache.free_pages() * PAGE_POSITIONS} are free): free a sequence, or give the engine more cache_positions"
                )
            if self._memory is not None and self._remembers:
                self._memory.reserve(self._memories[feed.sequence], rows_of(feed))

    def _run(self, feeds: Sequence[Feed | Patches]) -> NDArray[np.float32]:
        tokens = np.concatenate([np.asarray(feed.tokens if isinstance(feed, Feed) else (), np.int32) for feed in feeds])
        numbers = np.concatenate([feed.values for feed in feeds if isinstance(feed, Patches)]) if self.plan.input else _NO_NUMBERS
        wanted = np.asarray(wanted_rows(feeds), np.int64)
        result = np.empty((wanted.size, self.plan.buffers[self.plan.result]), np.float32)
        for first, segments in self._calls(feeds):
            rows = int(segments[:, 2].sum())
            begin, end = np.searchsorted(wanted, (first, first + rows))
            here = np.ascontiguousarray(wanted[begin:end] - first)
            self._program.native.run(
                self._cache,
                None if self._memory is None else self._memory.native,
                tokens[first:].ctypes.data,
                numbers[first:].ctypes.data,
                rows,
                segments.ctypes.data,
                len(segments),
                here.ctypes.data,
                here.size,
                result[begin:].ctypes.data,
                self.mode == "exact",
                self.threads,
            )
        return result

    def _calls(self, feeds: Sequence[Feed | Patches]) -> list[tuple[int, NDArray[np.int64]]]:
        return native_calls(feeds, self.max_rows, self._memories, causal=self.plan.causal)
