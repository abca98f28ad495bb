"""Codebooks of 2 and 3 dimensions for Gaussian weights: the universal vector grid ``nvq``, and where k-means starts from for ``vq``.

Lloyd's iterations (1957; Linde, Buzo, Gray, 1980) on 600,000 standard normal vectors, the best of 16 starts, rounded to 1/32 and
sorted. Mean squared error a weight of unit variance, beside the best scalar levels of the same bits (Max, 1960):

    bits a weight        1        1.5      2        2.5      3
    2 dimensions         0.363    0.201    0.108    0.0570   0.0298
    3 dimensions         0.356             0.101
    scalar               0.363             0.118             0.0345

Being whole multiples of 1/32 within 8 bits, the components are exact in fast mode. They are part of the file format and must never change.
"""

import numpy as np
import numpy.typing as npt

from kbit.core.errors import SchemeError

__all__ = ["gaussian_codebook"]

#: (dims, bits of a code) → components in units of 1/32, entry after entry
_TABLES: dict[tuple[int, int], str] = {
    (2, 2): ("-31 19 -19 -30 19 30 30 -19"),
    (2, 3): ("-44 -4 -31 42 -23 -47 -1 15 1 -15 23 47 31 -42 44 4"),
    (2, 4): ("-61 -20 -56 21 -32 -50 -29 -9 -28 53 -21 19 -6 -28 0 0 7 30 9 -59 13 63 22 -21 27 9 46 38 48 -42 59 -2"),
    (2, 5): (
        "-72 -6 -66 31 -60 -46 -43 -16 -42 9 -39 64 -36 33 -31 -41 -21 -70 -21 -1 -20 -20 -18 19 -13 44 -7 -36 -1 -14 0 5 0 73 2 "
        "25 7 -53 13 44 16 -27 19 15 20 -6 27 -75 33 -42 34 32 39 63 41 -17 42 7 63 -41 65 33 70 -3"
    ),
    (2, 6): (
        "-83 -22 -83 14 -72 48 -66 -55 -63 -2 -56 -27 -56 25 -46 10 -45 74 -44 -9 -44 44 -39 -49 -37 -28 -36 -77 -33 24 -31 6 -29 "
        "-11 -25 40 -21 -24 -21 60 -20 -41 -18 -2 -16 12 -16 26 -15 -60 -11 -13 -8 44 -7 86 -6 -28 -5 0 -1 14 -1 29 0 -43 1 -86 3 "
        "-15 4 62 8 -61 9 -2 11 -29 11 42 12 11 13 25 18 -14 20 -45 24 1 26 55 27 15 27 34 29 -28 32 -70 33 -10 33 79 40 -43 41 "
        "22 43 4 45 43 47 -18 60 -32 60 24 62 -2 64 -59 66 56 84 19 85 -19"
    ),
    (3, 3): ("-40 -19 16 -24 30 18 -23 -4 -35 3 -46 -9 7 38 -27 11 -17 37 32 27 22 36 -9 -20"),
    (3, 6): (
        "-69 -7 19 -67 -11 -23 -63 37 17 -58 33 -36 -53 -53 14 -47 11 53 -43 -50 -29 -43 14 -6 -39 -17 -62 -37 -25 43 -37 -21 4 "
        "-34 59 -9 -33 4 20 -32 -15 -24 -29 13 -38 -28 33 21 -18 38 62 -17 -45 19 -16 30 -15 -15 3 -11 -15 68 31 -14 -39 -13 -14 "
        "51 -45 -12 -15 17 -9 -56 52 -9 -15 -38 -9 -12 72 -9 5 41 -8 17 -72 -7 15 11 -5 -56 -47 -3 -73 -3 0 -15 -8 0 44 7 3 16 "
        "-38 5 30 33 7 -23 39 10 -21 -65 11 -36 10 11 11 -8 12 -2 16 13 74 -10 14 39 -19 15 -37 -24 19 -8 -32 23 18 67 26 28 11 "
        "27 -15 -4 27 7 36 29 -60 31 31 45 -50 31 55 37 36 -22 22 36 17 -23 40 -54 -7 40 -25 59 41 5 -58 45 -44 -48 45 6 6 50 -17 "
        "-22 52 48 -4 63 18 35 70 -26 13 74 14 -22"
    ),
}


def gaussian_codebook(bits: int, dims: int) -> npt.NDArray[np.float32]:
    """Codebook float32 [2^bits, dims] with the least squared error on standard normal weights, a new array.

    Raises:
        SchemeError: there is none for so many bits and dimensions.
    """
    if (dims, bits) not in _TABLES:
        raise SchemeError(f"expected codes of {sorted(_TABLES)} (dims, bits), got ({dims}, {bits})")
    return (np.array(_TABLES[dims, bits].split(), np.float32) / np.float32(32)).reshape(1 << bits, dims)
