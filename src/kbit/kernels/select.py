"""Which variant of the kernels a matrix runs with: the only place where that is decided.

A stored tuning of this machine decides where it has measured a shape of about the size; else the table below, which was measured too
(`benchmarks/variants.py`, docs/speed.md) and is meant to be right without a tuning. Whatever is chosen, the results are the same bytes.
"""

from kbit.kernels.tuning import active_tuning
from kbit.kernels.variants import Kind, TokenClass, Variant

__all__ = ["choose", "default_variant"]


def choose(kind: Kind, token_class: TokenClass, isa: str) -> Variant:
    """The variant for a matrix and a class of token counts, on the instruction set that will run it."""
    tuning = active_tuning(isa)
    tuned = None if tuning is None else tuning.variant(kind, token_class)
    return tuned or default_variant(kind, token_class, isa)


def default_variant(kind: Kind, token_class: TokenClass, isa: str) -> Variant:
    """The variant where nothing was measured.

    One token is bound by memory wherever the instruction set has vectors, and what it does by itself reads memory as fast as anything but
    at k = 8. A few tokens are bound by arithmetic: multiplying straight from the planes beats writing decoded strips and reading them
    again. Bit-serial kernels win in plain C++ alone, where a popcount stands for 32 products and no vectors compete with it.
    """
    one_plane = kind.straight and kind.bits in (1, 2, 4, 8)
    match isa:
        case "amx" | "avx512" if token_class == "few":
            return "integer" if one_plane and kind.bits > 1 else "lookup"
        case "amx" | "avx512" if kind.straight and kind.bits == 8:
            return "integer"
        case "avx2" if token_class == "few" and one_plane:
            return "integer"
        case "avx2" if token_class == "few" and kind.bits <= 5:
            return "lookup"
        case "scalar" if kind.straight:
            return "serial" if kind.bits <= 3 else "integer"
    return "automatic"
