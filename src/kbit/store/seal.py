"""The seal of kbit's own containers: every bit of the header and of every tensor is held by a SHA-256.

A sealed header opens with the fixed text `SEAL_PREFIX`, then 64 hex digits: the SHA-256 of the length field and the whole header, spaces
at its end included, with these 64 digits written as zeros. So every bit of the header is covered, the digest itself among them.
`HASHES_KEY` in the metadata holds one SHA-256 a tensor, in file order, over its name, dtype, shape and bytes.

The seal finds damage and careless edits; it is no signature, since who changes a file on purpose can seal it anew (with another root).
It is the same in every format version, so that a reader can tell a newer file from a damaged one.
"""

import hashlib
import json
import re
from collections.abc import Iterable

from kbit.core.errors import FormatError, IntegrityError
from kbit.store.header import METADATA_KEY, Header

__all__ = ["DIGEST_KEY", "HASHES_KEY", "SEAL_PREFIX", "ZERO_DIGEST", "check_seal", "seal", "tensor_hasher"]

#: metadata keys that begin so belong to kbit, and only a sealed file may carry them
RESERVED_PREFIX = "kbit"
DIGEST_KEY = "kbit_digest"
HASHES_KEY = "kbit_hashes"
SEAL_PREFIX = b'{"' + METADATA_KEY.encode() + b'":{"' + DIGEST_KEY.encode() + b'":"'
ZERO_DIGEST = b"0" * 64
_DIGEST_AT = 8 + len(SEAL_PREFIX)


def _digest(head: bytes) -> bytes:
    hasher = hashlib.sha256(head[:_DIGEST_AT] + ZERO_DIGEST)
    hasher.update(memoryview(head)[_DIGEST_AT + 64 :])
    return hasher.hexdigest().encode()


def seal(head: bytes) -> bytes:
    """The same length field and header, with the digest in its place; the header was built with `DIGEST_KEY` as 64 zeros, first."""
    assert head[8:_DIGEST_AT] == SEAL_PREFIX
    assert head[_DIGEST_AT : _DIGEST_AT + 64] == ZERO_DIGEST
    return head[:_DIGEST_AT] + _digest(head) + head[_DIGEST_AT + 64 :]


def check_seal(head: bytes, header: Header, path: str) -> tuple[str, ...] | None:
    """One SHA-256 a tensor in file order, out of a header whose digest holds; None for a plain safetensors file.

    Raises:
        IntegrityError: the header speaks of kbit and is not what was sealed.
    """
    if not any(key.startswith(RESERVED_PREFIX) for key in header.metadata):
        return None
    if head[8:_DIGEST_AT] != SEAL_PREFIX:
        raise IntegrityError(f"{path}: header at byte 8: kbit's metadata is there, but not the seal that a kbit file opens with")
    expected = _digest(head)
    if head[_DIGEST_AT : _DIGEST_AT + 64] != expected:
        found = head[_DIGEST_AT : _DIGEST_AT + 64]
        raise IntegrityError(f"{path}: header at byte {_DIGEST_AT}: expected the digest {expected.decode()}, got {found!r}")
    hashes = header.metadata.get(HASHES_KEY, "")
    if not re.fullmatch(r"[0-9a-f]*", hashes) or len(hashes) != 64 * len(header.entries):
        raise FormatError(f"{path}: metadata {HASHES_KEY!r}: expected 64 hex digits for each of {len(header.entries)} tensors")
    return tuple(hashes[64 * index : 64 * index + 64] for index in range(len(header.entries)))


def tensor_hasher(name: str, dtype: str, shape: Iterable[int]) -> "hashlib._Hash":
    """SHA-256 that has read the tensor's name, dtype and shape and waits for its bytes: equal bytes under another name do not match."""
    return hashlib.sha256(json.dumps([name, dtype, list(shape)], separators=(",", ":")).encode() + b"\n")
