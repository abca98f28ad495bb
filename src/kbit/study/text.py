"""Texts of a study: windows at even distances over the whole of it, tokenized once a process."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from kbit.calibrate.text import CalibrationText, CalibrationWindows
from kbit.core.digest import digest_file, digest_json
from kbit.core.errors import ShapeError
from kbit.evaluate.windows import TokenizedText, Windows, read_text, tokenize
from kbit.store.tokenizer import load_tokenizer

__all__ = ["calibration_windows", "digest_texts", "scored_windows", "spread_windows"]


def spread_windows(text: TokenizedText, context: int, count: int) -> Windows:
    """`count` windows at even distances over the whole text, joined; 0 takes all of it.

    The last token of each window is scored by what the next one begins with.

    Raises:
        ShapeError: the text has fewer tokens than the windows.
    """
    if not count:
        return Windows(text, context=context)
    length = len(text.ids)
    step = (length - 1) // count
    if step < context:
        raise ShapeError(f"expected a text of at least {count} windows of {context} tokens, got {length} tokens")
    places = np.concatenate([np.arange(index * step, index * step + context) for index in range(count)])
    places = np.append(places, places[-1] + 1)  # what the last window predicts
    widths = np.diff(text.byte_ends)[places]
    joined = replace(text, ids=text.ids[places], byte_ends=np.concatenate([[0], np.cumsum(widths)]))
    return Windows(joined, context=context, limit_tokens=count * context)


@lru_cache(maxsize=8)
def scored_windows(tokenizer_folder: str, paths: tuple[str, ...], context: int, count: int) -> Windows:
    """The windows that a model is scored on."""
    return spread_windows(_tokenized(tokenizer_folder, paths), context, count)


@lru_cache(maxsize=4)
def _tokenized(tokenizer_folder: str, paths: tuple[str, ...]) -> TokenizedText:
    return tokenize(read_text(*paths), load_tokenizer(Path(tokenizer_folder)))


@lru_cache(maxsize=8)
def calibration_windows(tokenizer_folder: str, paths: tuple[str, ...], tokens: int, seed: int, positions: int | None) -> CalibrationWindows:
    """The windows that a model's methods look at, those of `kbit quantize --calibration` with the same tokens and seed."""
    text = CalibrationText(paths, tokens=tokens, seed=seed)
    return text.windows(load_tokenizer(Path(tokenizer_folder)), positions=positions)


def digest_texts(paths: Sequence[Path]) -> str:
    """Digest of the files' bytes; a folder stands for its ``*.txt`` in order of name."""
    files = [file for path in paths for file in (sorted(path.glob("*.txt")) if path.is_dir() else [path])]
    return digest_json([digest_file(file) for file in files])
