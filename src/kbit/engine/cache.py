"""The memory for keys and values: how they are kept, and room for so many positions."""

import os
from typing import Literal, get_args

from kbit.core.errors import LimitError, SchemeError, ShapeError
from kbit.core.registry import suggest
from kbit.native import _kbit

__all__ = ["PAGE_POSITIONS", "CacheFormat", "make_cache"]

CacheFormat = Literal["fp32", "fp16", "int8", "int4", "int3"]

PAGE_POSITIONS = 32
_MAX_PAGES = 1 << 17


def make_cache(layers: int, kv_heads: int, head_dim: int, cache_format: CacheFormat, positions: int | None) -> "_kbit.Cache":
    """An empty cache.

    Args:
        layers: that attend.
        kv_heads: heads of keys, and of values.
        head_dim: numbers of a head.
        cache_format: how numbers are kept.
        positions: room over all sequences; None for what a quarter of the memory holds, at most 4 million.

    Raises:
        SchemeError: an unknown format.
        ShapeError: no positions.
        LimitError: no memory for them.
    """
    if cache_format not in get_args(CacheFormat):
        raise SchemeError(f"unknown cache format {cache_format!r}: {suggest(cache_format, get_args(CacheFormat))}")
    number = get_args(CacheFormat).index(cache_format)
    page_bytes = _kbit.Cache(layers, kv_heads, head_dim, number, 1).page_bytes()
    if positions is None:
        pages = min(_memory_bytes() // 4 // page_bytes, _MAX_PAGES)
    elif positions < 1:
        raise ShapeError(f"cache_positions: expected at least 1, got {positions}")
    else:
        pages = -(-positions // PAGE_POSITIONS)
    try:
        return _kbit.Cache(layers, kv_heads, head_dim, number, max(pages, 1))
    except MemoryError:
        raise LimitError(f"no memory for a cache of {pages * PAGE_POSITIONS} positions ({pages * page_bytes} bytes)") from None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
