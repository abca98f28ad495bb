"""Which variant of the kernels a matrix runs with: the only place where that is decided.

A stored tuning of this machine decides where it has measured a shape of about the size; else the table below, which was measured too
(`benchmarks/kernels.py --variants`, notes/LOG.md) and is meant to be right without a tuning. Whatever is chosen, the results are the same bytes.
"""

from kbit.kernels.tuning import active_tuning
from kbit.kernels.variants import TokenClass, Variant

__all__ = ["choose", "default_variant"]


def choose(bits: int, rows: int, cols: int, *, affine: bool, token_class: TokenClass, isa: str) -> Variant:
    """The variant for a matrix [rows, cols] of `bits` bits.

    Args:
        bits: width of its codes.
        rows, cols: its shape.
        affine: whether its integer codebook is a line.
        token_class: one token, or a few.
        isa: the instruction set that will run it.
    """
    tuning = active_tuning(isa)
    tuned = None if tuning is None else tuning.variant(bits, rows, cols, affine=affine, token_class=token_class)
    return tuned or default_variant(bits, affine=affine, token_class=token_class, isa=isa)


def default_variant(bits: int, *, affine: bool, token_class: TokenClass, isa: str) -> Variant:
    """The variant where nothing was measured.

    One token is bound by memory wherever the instruction set has vectors, and what it does by itself reads memory as fast as anything. A few
    tokens are bound by arithmetic: reading planes directly beats writing decoded strips and reading them again. Bit-serial kernels win in plain
    C++ alone, where 32 products in a handful of instructions have no other vectors to compete with.
    """
    masks = affine and bits in (1, 2, 4)
    if isa == "scalar" and affine and bits in (1, 2):
        return "serial"
    if token_class == "few" and isa == "avx512":
        return "integer" if masks and bits > 1 else "lookup"
    if token_class == "few" and isa == "avx2" and masks:
        return "integer"
    return "automatic"
