"""SHA-256 of bytes, files, JSON values and arrays, as 64 lower-case hexadecimal digits.

A digest names a value, not its accident: JSON is hashed in one canonical form, an array with its dtype and shape before its
little-endian bytes in C order, so that neither memory layout nor machine changes it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import DTypeError, FormatError
from kbit.core.files import open_regular, storage_errors
from kbit.core.strict_json import check_keys

__all__ = ["digest_array", "digest_bytes", "digest_file", "digest_json"]

#: kind of dtype → item sizes whose every bit is value (float96/128 have padding)
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """Digest of a byte string."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: str | Path) -> str:
    """Digest of a file's bytes, read in pieces.

    Raises:
        FormatError: it is no regular file.
        StorageError: it is missing or unreadable.
    """
    with open_regular(path) as file, storage_errors(path, "read"):
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """Digest of a JSON value: keys sorted, no spaces, ASCII escapes, no NaN; a tuple counts as a list.

    Raises:
        FormatError: JSON cannot hold it, or a key is not a text (JSON would make 1 and "1" the same).
    """
    try:
        check_keys(value)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"expected a value that JSON can hold: {error}") from None
    return digest_bytes(text.encode("ascii"))


def digest_array(array: NDArray[Any]) -> str:
    """Digest of dtype, shape and elements of a boolean, integer, float or complex array.

    Raises:
        DTypeError: any other dtype.
    """
    dtype = array.dtype
    if dtype.itemsize not in _SIZES.get(dtype.kind, ()):
        raise DTypeError(f"expected a boolean, integer, float or complex array of at most 64 bits a number, got {dtype}")
    hasher = hashlib.sha256(f"{dtype.kind}{dtype.itemsize}{list(array.shape)}\n".encode())
    hasher.update(np.ascontiguousarray(array, dtype=dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()
