"""Codes of k bits out of nested ones of K: the first k bits of each code, and the k-bit levels that are stored with the tensor.

The codebook of a nested tensor holds the levels of every k: those of k bits are entries 2^k … 2^(k+1) − 1, so that codes of all K bits have
the last 2^K. What comes out is an ordinary tensor with a fitted codebook (``kmeans``), with the same scales.
"""

from dataclasses import replace

import numpy as np

from kbit.core.errors import SchemeError
from kbit.core.scheme import Scheme
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["NESTED", "coarse_scheme", "first_bits"]

NESTED = "nested"


def coarse_scheme(scheme: Scheme, bits: int) -> Scheme:
    """What the first `bits` bits of a tensor of a nested scheme are.

    Raises:
        SchemeError: the scheme is not nested, or has not so many bits.
    """
    if scheme.grid != NESTED:
        raise SchemeError(f"expected a nested scheme to take {bits} bits of, got {scheme.text!r}")
    if not 2 <= bits <= scheme.bits:
        raise SchemeError(f"{scheme.text!r} holds codes of 2…{scheme.bits} bits, got {bits}")
    return replace(scheme, grid="kmeans", bits=bits)


def first_bits(tensor: QuantizedTensor, bits: int) -> QuantizedTensor:
    """The tensor in its first `bits` bits.

    Raises:
        SchemeError: as `coarse_scheme`.
    """
    scheme = coarse_scheme(tensor.scheme, bits)
    assert tensor.codebook is not None
    dropped = np.uint8(tensor.scheme.bits - bits)
    planes = [pack(np.right_shift(matrix.codes(), dropped, dtype=np.uint8), bits) for matrix in tensor.matrices()]
    return replace(tensor, scheme=scheme, weight=np.concatenate(planes), codebook=tensor.codebook[1 << bits : 2 << bits].copy())
