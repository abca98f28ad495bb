"""Where logits come from: a model run on windows, or logits of the original computed once and kept.

A `LogitSource` turns a batch of windows into one float32 tensor [tokens scored, vocabulary] for each window. Whatever compares
or scores logits takes a source and does not know which one it has, so a table of many k-bit variants runs the original once
(`ReferenceLogits`) and a single comparison runs both models side by side (`ModelLogits`).
"""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch

from kbit.core.errors import FormatError, LimitError, ModelError, ShapeError
from kbit.core.files import atomic_write, storage_errors
from kbit.evaluate.source_checks import check_finite, check_windows
from kbit.evaluate.windows import Window, Windows

__all__ = ["LogitSource", "ModelLogits", "ReferenceLogits", "as_source", "batches", "inference"]

#: elements of a batch of logits when no batch size is given (128 MiB of float32)
BATCH_ELEMENTS = 1 << 25
MAX_BATCH = 8


class LogitSource(Protocol):
    """Logits of windows, whichever way they are had."""

    vocabulary: int

    def check(self, windows: Windows) -> None:
        """Refuses windows that this source cannot answer for."""

    def rows(self, batch: Sequence[Window]) -> list[torch.Tensor]:
        """For each window its finite logits at the scored targets, float32 [tokens, vocabulary]."""


class ModelLogits:
    """Runs a causal language model, any module with ``model(input_ids).logits``.

    Raises:
        ModelError: not a causal language model: an encoder-decoder, or one whose logits see later tokens.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.config: Any = getattr(model, "config", None)
        if getattr(self.config, "is_encoder_decoder", False):
            raise ModelError(f"expected a causal language model, got the encoder-decoder {type(model).__name__}")
        positions = getattr(self.config, "max_position_embeddings", None)
        self.positions = positions if isinstance(positions, int) else None
        self._options = {"use_cache": False} if self.config is not None else {}
        self.vocabulary = _probe(self)

    def check(self, windows: Windows) -> None:
        """See `check_windows`."""
        check_windows(windows, self.positions, self.vocabulary)

    def rows(self, batch: Sequence[Window]) -> list[torch.Tensor]:
        """Logits at the scored targets of windows of one length.

        Raises:
            NumericsError: NaN or Inf among the logits; names window and token.
        """
        logits = self._run(np.stack([window.inputs for window in batch]))
        rows = [logits[i, window.first :].float() for i, window in enumerate(batch)]
        for window, row in zip(batch, rows, strict=True):
            check_finite(row, window)
        return rows

    def _run(self, ids: np.ndarray[Any, Any]) -> torch.Tensor:
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        output = self.model(torch.from_numpy(ids).to(device), **self._options)
        logits = getattr(output, "logits", None)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or tuple(logits.shape[:2]) != ids.shape:
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(output).__name__
            raise ModelError(
                f"expected logits of shape ({ids.shape[0]}, {ids.shape[1]}, vocabulary) from {type(self.model).__name__}, got {got}"
            )
        return logits


def _probe(source: ModelLogits) -> int:
    """Vocabulary of a causal model: what it says about the first token must not change with the second."""
    with inference(source.model):
        first = source._run(np.array([[0, 0]]))[0, 0].float()
        second = source._run(np.array([[0, 1]]))[0, 0].float()
    scale = float(first.abs().max())
    if math.isfinite(scale) and float((first - second).abs().max()) > 1e-3 * scale:
        raise ModelError(f"expected a causal language model, got {type(source.model).__name__}, whose logits see later tokens")
    return int(first.numel())


class ReferenceLogits:
    """Logits of one model on all scored tokens of some windows, kept exactly (float32) for many comparisons.

    They take `size_bytes` = 4 · tokens · vocabulary, in memory up to `memory_limit_bytes`, else in a temporary file that is
    mapped. Use as a context manager, or `close()`, to give the memory or file back.
    """

    def __init__(self, windows: Windows, vocabulary: int, *, memory_limit_bytes: int = 1 << 30, directory: Path | None = None) -> None:
        self.vocabulary = vocabulary
        self.protocol = windows.protocol
        self.size_bytes = 4 * windows.protocol.tokens * vocabulary
        self.in_memory = self.size_bytes <= memory_limit_bytes
        self._ends = np.concatenate([[0], np.cumsum(windows.scored_tokens())])
        shape = (windows.protocol.tokens, vocabulary)
        self._data: np.ndarray[Any, Any] | None = np.empty(shape, dtype=np.float32) if self.in_memory else _mapped(shape, directory)

    @classmethod
    def compute(
        cls,
        model: torch.nn.Module,
        windows: Windows,
        *,
        batch_size: int | None = None,
        memory_limit_bytes: int = 1 << 30,
        directory: Path | None = None,
    ) -> Self:
        """Runs `model` once over `windows`.

        Raises:
            LimitError: the temporary file would not fit on the disk.
            NumericsError, ModelError, ShapeError: as `ModelLogits`.
        """
        with inference(model):
            source = ModelLogits(model)
            return cls.of(source, windows, batch_size=batch_size, memory_limit_bytes=memory_limit_bytes, directory=directory)

    @classmethod
    def of(
        cls,
        source: LogitSource,
        windows: Windows,
        *,
        batch_size: int | None = None,
        memory_limit_bytes: int = 1 << 30,
        directory: Path | None = None,
    ) -> Self:
        """Runs any source of logits once over `windows` (errors as `compute`)."""
        source.check(windows)
        kept = cls(windows, source.vocabulary, memory_limit_bytes=memory_limit_bytes, directory=directory)
        with torch.inference_mode():
            for batch in batches(windows, batch_size, source.vocabulary):
                for window, row in zip(batch, source.rows(batch), strict=True):
                    kept._slice(window)[:] = row.cpu().numpy()
        return kept

    @classmethod
    def load(cls, path: Path, windows: Windows, vocabulary: int) -> Self:
        """Logits that `save` wrote for these windows, mapped.

        Raises:
            FormatError: the file holds no such array. StorageError: it cannot be read.
        """
        kept = cls.__new__(cls)
        kept.vocabulary, kept.protocol, kept.in_memory = vocabulary, windows.protocol, False
        kept.size_bytes = 4 * windows.protocol.tokens * vocabulary
        kept._ends = np.concatenate([[0], np.cumsum(windows.scored_tokens())])
        with storage_errors(path, "read"):
            try:
                data = np.load(path, mmap_mode="c")  # torch wants writable memory; nothing of it reaches the file
            except ValueError as error:
                raise FormatError(f"{path}: expected logits: {error}") from None
        if data.dtype != np.float32 or data.shape != (windows.protocol.tokens, vocabulary):
            got = f"{data.dtype} {list(data.shape)}"
            raise FormatError(f"{path}: expected logits float32 [{windows.protocol.tokens}, {vocabulary}], got {got}")
        kept._data = data
        return kept

    def save(self, path: Path) -> None:
        """Writes the logits as a .npy file, whole or not at all.

        Raises:
            StorageError: the disk said no.
        """
        if self._data is None:
            raise ModelError("expected open reference logits, got closed ones")
        with atomic_write(path) as file:
            np.save(file, self._data)

    def _slice(self, window: Window) -> np.ndarray[Any, Any]:
        if self._data is None:
            raise ModelError("expected open reference logits, got closed ones")
        return self._data[self._ends[window.index] : self._ends[window.index + 1]]

    def check(self, windows: Windows) -> None:
        """Refuses other windows than those the logits were computed on.

        Raises:
            ShapeError: the protocols differ.
        """
        if windows.protocol != self.protocol:
            raise ShapeError(f"expected the windows of the reference logits ({self.protocol.text}), got ({windows.protocol.text})")

    def rows(self, batch: Sequence[Window]) -> list[torch.Tensor]:
        """The kept logits of the windows."""
        return [torch.from_numpy(self._slice(window)) for window in batch]

    def close(self) -> None:
        """Gives memory and file back."""
        self._data = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mapped(shape: tuple[int, int], directory: Path | None) -> np.ndarray[Any, Any]:
    size = 4 * shape[0] * shape[1]
    place = Path(tempfile.gettempdir()) if directory is None else directory
    with storage_errors(place, f"keep {size:,} bytes of reference logits"):
        free = shutil.disk_usage(place).free
        if size > free:
            raise LimitError(f"expected {size:,} bytes of disk in {place} for reference logits, got {free:,}; limit the tokens")
        with tempfile.TemporaryFile(dir=place) as file:  # has no name: gone with the mapping, also after a kill
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a SIGBUS later
            return np.memmap(file, dtype=np.float32, mode="r+", shape=shape)


def as_source(model: "torch.nn.Module | LogitSource") -> LogitSource:
    """The model as a source; a source stays what it is."""
    return ModelLogits(model) if isinstance(model, torch.nn.Module) else model


def batches(windows: Windows, batch_size: int | None, vocabulary: int) -> Iterator[list[Window]]:
    """Runs of windows of one length, `batch_size` at most (by default as many as keep a batch of logits near 128 MiB).

    Raises:
        ShapeError: a batch size below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ShapeError(f"expected a batch size of at least 1, got {batch_size}")
    size = batch_size or min(MAX_BATCH, max(1, BATCH_ELEMENTS // (windows.protocol.context * vocabulary)))
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) == size or batch[0].inputs.size != window.inputs.size):
            yield batch
            batch = []
        batch.append(window)
    yield batch


@contextmanager
def inference(*models: object) -> Iterator[None]:
    """Inference mode with the models in eval mode; what was in training is put back."""
    training = [part for model in models if isinstance(model, torch.nn.Module) for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        with torch.inference_mode():
            yield
    finally:
        for part in training:
            part.training = True
