"""Tensors in fewer bits than they are stored in: the first k bits of nested codes of K, or the first levels of a cascade.

Of nested codes these are the first k bits of each code, and the k-bit levels that are stored with the tensor. The codebook of a nested
tensor holds the levels of every k: those of k bits are entries 2^k … 2^(k+1) − 1, so that codes of all K bits have the last 2^K. What comes
out is an ordinary tensor with a fitted codebook (``kmeans``), with the same scales.

Of a cascade (`kbit.tensor.residual`) they are as many whole levels as have k bits together; other parts stay.
"""

from dataclasses import replace

import numpy as np

from kbit.core.errors import SchemeError
from kbit.core.parts import CASCADES
from kbit.core.scheme import Scheme
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor, part_shapes

__all__ = ["coarse_scheme", "first_bits", "has_fewer_bits"]

_NESTED = "nested"


def has_fewer_bits(scheme: Scheme) -> bool:
    """Whether a tensor of this scheme can be taken in fewer bits."""
    return scheme.grid == _NESTED or bool(scheme.spec.residual)


def coarse_scheme(scheme: Scheme, bits: int) -> Scheme:
    """What the first `bits` bits of a tensor are.

    Raises:
        SchemeError: the scheme is neither nested nor a cascade, or has not so many bits, or no such whole levels.
    """
    if scheme.spec.residual:
        return _first_levels(scheme, bits)
    if scheme.grid != _NESTED:
        raise SchemeError(f"expected a nested scheme or a cascade to take {bits} bits of, got {scheme.text!r}")
    if not 2 <= bits <= scheme.bits:
        raise SchemeError(f"{scheme.text!r} holds codes of 2…{scheme.bits} bits, got {bits}")
    return replace(scheme, grid="kmeans", bits=bits)


def _first_levels(scheme: Scheme, bits: int) -> Scheme:
    of_levels = (scheme.bits, *scheme.spec.residual)
    sums = [sum(of_levels[: count + 1]) for count in range(len(of_levels))]
    if bits not in sums:
        raise SchemeError(f"the levels of {scheme.text!r} have {', '.join(map(str, sums))} bits together, got {bits}")
    further = "-".join(map(str, of_levels[1 : sums.index(bits) + 1]))
    word = "successive" if scheme.spec.successive else "residual"
    parts = tuple(word + further if part.startswith(CASCADES) else part for part in scheme.parts)
    return replace(scheme, parts=tuple(part for part in parts if part not in CASCADES))


def first_bits(tensor: QuantizedTensor, bits: int) -> QuantizedTensor:
    """The tensor in its first `bits` bits; levels of a cascade in shared memory.

    Raises:
        SchemeError: as `coarse_scheme`.
    """
    scheme = coarse_scheme(tensor.scheme, bits)
    if tensor.scheme.spec.residual:
        kept = part_shapes(scheme, tensor.shape)
        return QuantizedTensor.from_parts(scheme, tensor.shape, {name: part for name, part in tensor.parts().items() if name in kept})
    assert tensor.codebook is not None
    dropped = np.uint8(tensor.scheme.bits - bits)
    planes = [pack(np.right_shift(matrix.codes(), dropped, dtype=np.uint8), bits) for matrix in tensor.matrices()]
    return replace(tensor, scheme=scheme, weight=np.concatenate(planes), codebook=tensor.codebook[1 << bits : 2 << bits].copy())
