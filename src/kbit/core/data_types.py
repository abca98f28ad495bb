"""The data types of codes: their names, and the bits and dims that each is defined for."""

from collections.abc import Mapping

__all__ = ["DEFAULT_EXPONENT_BITS", "GRIDS", "VECTOR_BITS", "VECTOR_GRIDS", "vector_text"]

#: grid → the bits it is defined for
GRIDS: Mapping[str, range] = {
    "int": range(1, 9),
    "float": range(2, 9),
    "log": range(2, 9),
    "nf": range(1, 9),
    "quantile": range(1, 9),
    "dynamic": range(2, 9),
    "kmeans": range(1, 9),
    "nested": range(2, 9),
    "trellis": range(1, 5),
    "vq": range(2, 7),
    "nvq": range(2, 7),
}

#: grids whose codes stand for several weights, and dims → the bits of a code that they are defined for
VECTOR_GRIDS = ("vq", "nvq")
VECTOR_BITS: Mapping[int, tuple[int, ...]] = {2: (2, 3, 4, 5, 6), 3: (3, 6)}

#: exponent bits of ``floatK`` without detail: OCP's E2M1, E2M3 and E4M3 where they exist, else what loses least on Gaussian blocks
DEFAULT_EXPONENT_BITS = {2: 1, 3: 2, 4: 2, 5: 2, 6: 2, 7: 2, 8: 4}


def vector_text(bits: int, dims: int) -> str:
    """Bits of one weight and dims: ``2d3``, ``2.5d2``."""
    return f"{bits / dims:g}d{dims}"
