import ctypes
import sys

import numpy as np
import pytest

from kbit.core.memory import give_back_freed, peak_rss_bytes, reset_peak_rss, rss_bytes


def test_a_peak_can_begin_again() -> None:
    block = np.ones(64 << 20, np.uint8)
    high = peak_rss_bytes()
    assert high >= block.nbytes
    del block
    if reset_peak_rss():
        assert peak_rss_bytes() <= high - (32 << 20)
    assert rss_bytes() <= peak_rss_bytes() + (8 << 20)


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc keeps what was freed")
def test_freed_memory_between_blocks_in_use_goes_back() -> None:
    blocks = [np.ones(96 << 10, np.uint8) for _ in range(1024)]  # each too small for a mapping of its own
    del blocks[::2]
    held = rss_bytes()
    give_back_freed()
    assert rss_bytes() <= held - (24 << 20)
    assert all(block.all() for block in blocks)
