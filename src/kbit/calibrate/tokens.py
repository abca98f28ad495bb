"""Calibration on files of token ids, made by another tool with the model's own tokenizer.

*.npy   integers [tokens], cut into windows here; or [windows, context], taken as they are
*.bin   token after token, little-endian, without a header: uint16 where the vocabulary has at most 65,536 entries, else uint32
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import FormatError, ModelError, ShapeError
from kbit.core.files import open_regular, storage_errors

__all__ = ["TOKEN_SUFFIXES", "cut_windows", "read_tokens"]

TOKEN_SUFFIXES = (".npy", ".bin")
_SHORT_VOCABULARY = 1 << 16

Ids = NDArray[np.int64]


def read_tokens(path: Path, vocabulary: int | None) -> Ids:
    """Ids of a file, int64 [tokens] or [windows, context].

    Args:
        path: ``*.npy`` or ``*.bin``.
        vocabulary: entries of the model's vocabulary; None where its configuration does not say.

    Raises:
        StorageError: it cannot be read.
        FormatError: it is empty, no array of integers, or holds an id outside of the vocabulary; names the place of the first.
        ModelError: a ``*.bin`` file for a model whose vocabulary is not known.
    """
    ids = _numpy_file(path) if path.suffix == ".npy" else _raw_file(path, vocabulary)
    if not ids.size:
        raise FormatError(f"{path}: expected token ids, got none")
    wrong = (ids < 0) | (ids >= (vocabulary or np.iinfo(np.int64).max))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        bound = "0 and on" if vocabulary is None else f"0…{vocabulary - 1}"
        raise FormatError(f"{path}: expected token ids of {bound}, got {int(ids[place])} at {list(place)}")
    return ids.astype(np.int64)


def _numpy_file(path: Path) -> NDArray[Any]:
    with open_regular(path) as file, storage_errors(path, "read"):
        try:
            array = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise FormatError(f"{path}: expected a .npy file of token ids: {error}") from None
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2):
        raise FormatError(f"{path}: expected integers [tokens] or [windows, context], got {array.dtype} of shape {list(array.shape)}")
    return array


def _raw_file(path: Path, vocabulary: int | None) -> NDArray[Any]:
    if vocabulary is None:
        raise ModelError(f"{path}: the width of its ids follows from the vocabulary, and config.json has no vocab_size: use a .npy file")
    dtype = np.dtype("<u2") if vocabulary <= _SHORT_VOCABULARY else np.dtype("<u4")
    with open_regular(path) as file, storage_errors(path, "read"):
        data = file.read()
    if len(data) % dtype.itemsize:
        raise FormatError(f"{path}: expected ids of {dtype.itemsize} bytes each for a vocabulary of {vocabulary}, got {len(data)} bytes")
    return np.frombuffer(data, dtype)


def cut_windows(files: Sequence[Ids], *, tokens: int, context: int, seed: int) -> Ids:
    """About `tokens` tokens as windows [windows, context], drawn by `seed` from all whole windows of `files`.

    Raises:
        ShapeError: windows of another length than `context`, or fewer tokens than one window.
    """
    rows = []
    for ids in files:
        if ids.ndim == 2 and ids.shape[1] != context:
            raise ShapeError(f"expected windows of {context} tokens, got a file of windows of {ids.shape[1]}: set the context to that")
        flat = ids.reshape(-1)
        rows.append(flat[: flat.size // context * context].reshape(-1, context))
    windows = np.concatenate(rows)
    if not len(windows):
        raise ShapeError(f"expected token files with at least one window of {context} tokens; they have fewer")
    return windows[np.random.default_rng(seed).permutation(len(windows))[: max(1, tokens // context)]]
