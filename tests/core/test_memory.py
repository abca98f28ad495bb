import numpy as np

from kbit.core.memory import peak_rss_bytes, reset_peak_rss, rss_bytes


def test_a_peak_can_begin_again() -> None:
    block = np.ones(64 << 20, np.uint8)
    high = peak_rss_bytes()
    assert high >= block.nbytes
    del block
    if reset_peak_rss():
        assert peak_rss_bytes() <= high - (32 << 20)
    assert rss_bytes() <= peak_rss_bytes() + (8 << 20)
