"""The ways of fast mode from codes to integer dots, by name. All give the same bytes; they differ in speed (csrc/variants.cc).

    automatic   what the instruction set does by itself
    lookup      integer levels through a table, for any codebook
    integer     codes multiplied as they lie, for codebooks on a line (q = offset + step · code) at k = 1, 2, 4
    serial      Σ 2^(i+j) · popcount(weight bit i AND activation bit j), for codebooks on a line at k = 1, 2

A variant is chosen for a class of token counts: ``one``, and ``few`` for 2…8; more tokens always run automatically.
"""

from typing import Literal, get_args

__all__ = ["FEW_TOKENS", "TOKEN_CLASSES", "VARIANTS", "TokenClass", "Variant", "applicable"]

Variant = Literal["automatic", "lookup", "integer", "serial"]
TokenClass = Literal["one", "few"]

#: in the order of their numbers in C++
VARIANTS: tuple[Variant, ...] = get_args(Variant)
TOKEN_CLASSES: tuple[TokenClass, ...] = get_args(TokenClass)

#: most tokens of the class ``few``
FEW_TOKENS = 8


def applicable(bits: int, *, affine: bool) -> tuple[Variant, ...]:
    """Variants that a matrix permits; `affine` says whether its integer codebook is a line."""
    named: dict[Variant, bool] = {"integer": affine and bits in (1, 2, 4), "serial": affine and bits in (1, 2)}
    return tuple(variant for variant in VARIANTS if named.get(variant, True))
