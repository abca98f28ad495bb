"""`Memory`: what the texts of an encoder leave for the decoder, keys and values of all its layers' attention to them.

A text is remembered once, however many sequences of the decoder read it.
"""

from typing import Literal, get_args

from kbit.core.errors import LimitError, ModelError, SchemeError
from kbit.core.registry import suggest
from kbit.engine.cache import PAGE_POSITIONS, make_cache
from kbit.engine.ops import EncoderDecoderPlan, Remember

__all__ = ["NO_MEMORY", "Memory", "MemoryFormat"]

#: numbers are not quantized here: a memory is read as often as weights are, but is small beside them
MemoryFormat = Literal["fp32", "fp16"]

#: of a sequence that reads no memory
NO_MEMORY = -1


class Memory:
    """Memories of texts, each with its readers. Not for several threads at once.

    Args:
        plan: of both sides.
        memory_format: ``fp32`` or ``fp16``.
        positions: room for so many over all texts; None for what a quarter of the machine's memory holds.

    Attributes:
        native: the compiled cache.

    Raises:
        SchemeError, ShapeError, LimitError: as `make_cache`.
        ModelError: layers of different sizes.
    """

    def __init__(self, plan: EncoderDecoderPlan, memory_format: MemoryFormat, positions: int | None) -> None:
        if memory_format not in get_args(MemoryFormat):
            raise SchemeError(f"unknown memory format {memory_format!r}: {suggest(memory_format, get_args(MemoryFormat))}")
        kept = [op for op in plan.encoder.ops if isinstance(op, Remember)]
        sizes = {(op.kv_heads, op.head_dim) for op in kept}
        if len(sizes) != 1:
            raise ModelError(f"expected layers that remember heads of one size, got {sorted(sizes)}")
        self.native = make_cache(len(kept), *sizes.pop(), memory_format, positions)
        self._readers: dict[int, int] = {}

    def create(self) -> int:
        """An empty memory, with one reader."""
        handle: int = self.native.create()
        self._readers[handle] = 1
        return handle

    def __contains__(self, handle: object) -> bool:
        return handle in self._readers

    def reserve(self, handle: int, count: int) -> None:
        """Room for the `count` tokens of a text.

        Raises:
            LimitError: there is none; nothing has changed.
        """
        if not self.native.reserve(handle, count):
            raise LimitError(
                f"no room in the memory for a text of {count} tokens ({self.native.free_pages() * PAGE_POSITIONS} are free): "
                f"free a sequence, or give the engine more memory_positions"
            )

    def share(self, handle: int) -> None:
        """One reader more."""
        self._readers[handle] += 1

    def leave(self, handle: int) -> None:
        """One reader less; after the last one the text is forgotten."""
        self._readers[handle] -= 1
        if not self._readers[handle]:
            del self._readers[handle]
            self.native.release(handle)

    def length(self, handle: int) -> int:
        """Tokens of the text that was remembered."""
        length: int = self.native.length(handle)
        return length
