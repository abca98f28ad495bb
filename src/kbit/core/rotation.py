"""Blocks in which inputs can be rotated: the method ``rotate`` of a scheme (`kbit.tensor.rotation` says what it computes)."""

__all__ = ["MIN_BLOCK", "rotation_block"]

#: below this a block mixes too few inputs to be worth its time, and vectors of 16 lanes do not fill
MIN_BLOCK = 16


def rotation_block(cols: int) -> int:
    """Inputs that a rotation mixes: the largest power of two that divides `cols`; 0 where that is below `MIN_BLOCK`.

    4096 is one block, 11008 are 43 of 256, 5632 are 11 of 512, 768 are 3 of 256; 1000 cannot be rotated.
    """
    block = cols & -cols
    return block if block >= MIN_BLOCK else 0
