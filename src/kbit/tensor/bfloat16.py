"""bfloat16 for numpy, which has none: an array of bits that says so."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kbit.core.errors import DTypeError

__all__ = ["BFloat16"]


@dataclass(frozen=True, slots=True, eq=False)
class BFloat16:
    """bfloat16 numbers held as their bits (the upper half of a float32), uint16 of any shape."""

    bits: npt.NDArray[np.uint16]

    def __post_init__(self) -> None:
        if not isinstance(self.bits, np.ndarray) or self.bits.dtype.newbyteorder("=") != np.uint16:
            raise DTypeError(f"expected bfloat16 bits as a uint16 array, got {getattr(self.bits, 'dtype', type(self.bits).__name__)}")

    @classmethod
    def from_float32(cls, values: npt.NDArray[np.float32]) -> "BFloat16":
        """Nearest bfloat16, ties to even; NaN stays NaN."""
        if values.dtype != np.float32:
            raise DTypeError(f"expected float32, got {values.dtype}")
        bits = np.ascontiguousarray(values).view(np.uint32).reshape(values.shape)
        with np.errstate(over="ignore"):
            rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return cls(np.where(np.isnan(values), (bits >> np.uint32(16)) | np.uint32(0x40), rounded).astype(np.uint16))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.bits.shape

    def __getitem__(self, index: Any) -> "BFloat16":
        return BFloat16(np.asarray(self.bits[index]))

    def to_float32(self) -> npt.NDArray[np.float32]:
        """The same numbers as float32, exactly."""
        return (self.bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
