"""The ways of fast mode from codes to integer dots, by name. All give the same bytes; they differ in speed (csrc/variants.cc).

    automatic   what the instruction set does by itself
    lookup      integer levels through a table, for any codebook
    integer     codes multiplied as they lie, for straight matrices
    serial      Σ 2^(i+j) · popcount(weight bit i AND activation bit j), for straight matrices up to k = 4

A matrix is straight where its integer codebook is a line (q = offset + step · code: linear grids, and all of one bit) and its
activation groups are whole k-blocks of 32 inputs.

A variant is chosen for a class of token counts: ``one``, and ``few`` for 2…4; more tokens always run automatically.
"""

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["FEW_TOKENS", "TOKEN_CLASSES", "VARIANTS", "Kind", "TokenClass", "Variant", "applicable"]

Variant = Literal["automatic", "lookup", "integer", "serial"]
TokenClass = Literal["one", "few"]

#: in the order of their numbers in C++
VARIANTS: tuple[Variant, ...] = get_args(Variant)
TOKEN_CLASSES: tuple[TokenClass, ...] = get_args(TokenClass)

#: most tokens of the class ``few``
FEW_TOKENS = 4
#: most bits that serial kernels take
SERIAL_BITS = 4


@dataclass(frozen=True, slots=True)
class Kind:
    """What choices tell apart.

    Attributes:
        bits: width of codes.
        straight: whether codes can be multiplied as they lie.
        group: inputs that share an activation's scale, which follows from the group size.
        rows, cols: shape.
    """

    bits: int
    straight: bool
    group: int
    rows: int
    cols: int


def applicable(kind: Kind) -> tuple[Variant, ...]:
    """Variants that a matrix permits."""
    permitted: dict[Variant, bool] = {"integer": kind.straight, "serial": kind.straight and kind.bits <= SERIAL_BITS}
    return tuple(variant for variant in VARIANTS if permitted.get(variant, True))
