"""The evaluation of a stored model: what `kbit eval` says."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kbit.core.errors import ModelError, ShapeError
from kbit.evaluate.divergence import Comparison, Divergence, compare
from kbit.evaluate.engine_logits import EngineLogits
from kbit.evaluate.logits import ModelLogits
from kbit.evaluate.models import is_packed, load_causal_model, load_tokenizer
from kbit.evaluate.perplexity import Perplexity, perplexity
from kbit.evaluate.size import SizeReport, stored_size
from kbit.evaluate.windows import Bos, Windows, read_text, tokenize
from kbit.store.check import check_folder

__all__ = ["EvaluationResult", "evaluate_folder", "open_source"]

#: longest context where none is given
MAX_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Loss, divergence from the original, and true size of a stored model.

    Attributes:
        loss: perplexity and bits per byte.
        size: where its bits go.
        reference: the original's loss on the same windows; None without an original.
        divergence: distance from the original; None without one.
        mode: arithmetic of the packed layers.
        seconds: time the evaluation took, models loaded.
    """

    loss: Perplexity
    size: SizeReport
    reference: Perplexity | None
    divergence: Divergence | None
    mode: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """JSON object of `kbit eval`; figures without an original are null."""
        loss = self.loss.to_json()
        figures = dict.fromkeys(Divergence.__slots__) if self.divergence is None else self.divergence.to_json()
        return {
            **loss,
            **figures,
            **self.size.to_json(),
            "reference_perplexity": None if self.reference is None else self.reference.perplexity.value,
            "intervals": loss["intervals"] | ((figures.get("intervals")) or {}),
            "mode": self.mode,
            "seconds": self.seconds,
        }


def evaluate_folder(
    path: Path | str,
    against: Path | str | None = None,
    texts: Sequence[Path | str] = (),
    *,
    context: int | None = 512,
    stride: int | None = None,
    bos: Bos | None = None,
    limit_tokens: int | None = None,
    batch_size: int | None = None,
    mode: str = "fast",
    bits: int | None = None,
    progress: bool | None = False,
) -> EvaluationResult:
    """Evaluate a stored model on texts, and against its original.

    Args:
        path: folder of the model, k-bit or plain.
        against: folder of the original.
        texts: files joined as they are into one text; a folder stands for its ``*.txt``.
        context: tokens a window; None takes what the model's positions allow, up to 2048.
        stride: tokens from one window to the next; `context` by default.
        bos: "none", "text" or "window" (see `kbit.evaluate.windows`); by default as the tokenizer does.
        limit_tokens: score at most the first so many tokens.
        batch_size: windows run at once.
        mode: arithmetic of the packed layers, ``fast`` or ``exact``.
        bits: evaluate the first so many bits of a model of nested codes or cascades; sizes are then those of a file that holds no others.
        progress: True shows a line with the time left on stderr, None only on a terminal.

    Raises:
        ModelError: not a causal language model, or an original with another tokenizer or vocabulary.
        SchemeError: an unknown mode.
        FormatError: a folder or text that is not what it should be.
        ShapeError: no text, a text shorter than one window, or a context beyond the model's positions.
        NumericsError: NaN or Inf among the logits; names the window.
    """
    if not texts:
        raise ShapeError("expected at least one text to evaluate on, got none")
    path, against = Path(path), None if against is None else Path(against)
    size = stored_size(path, bits)
    tokens = tokenize(read_text(*texts), _tokenizer(path, against))
    model = open_source(path, mode=mode, bits=bits)
    context = min(model.positions or MAX_CONTEXT, MAX_CONTEXT) if context is None else context
    windows = Windows(tokens, context=context, stride=stride, bos=bos, limit_tokens=limit_tokens)
    reference = None if against is None else ModelLogits(load_causal_model(against, mode=mode))
    started = time.perf_counter()
    comparison: Comparison | None = None
    if reference is None:
        loss = perplexity(model, windows, batch_size=batch_size, progress=progress)
    else:
        comparison = compare(model, reference, windows, batch_size=batch_size, progress=progress)
        loss = comparison.loss
    return EvaluationResult(
        loss=loss,
        size=size,
        reference=comparison.reference if comparison else None,
        divergence=comparison.divergence if comparison else None,
        mode=mode,
        seconds=time.perf_counter() - started,
    )


def _tokenizer(path: Path, against: Path | None) -> Tokenizer:
    """The model's tokenizer; where there is an original with one of its own, both must be the same."""
    folders = [folder for folder in (path, against) if folder is not None and (folder / "tokenizer.json").exists()]
    tokenizers = [load_tokenizer(folder) for folder in folders]
    if not tokenizers:
        return load_tokenizer(path)
    if len({tokenizer.to_str() for tokenizer in tokenizers}) > 1:
        raise ModelError(f"expected one tokenizer, got two: those of {folders[0]} and {folders[1]} differ")
    return tokenizers[0]


def open_source(path: Path, *, mode: str = "fast", bits: int | None = None) -> ModelLogits | EngineLogits:
    """Logits of a model's folder: a k-bit model in the engine, where it knows the architecture; any other through transformers.

    Raises:
        ModelError: `bits` of nested codes or cascades, which the engine alone runs, of another model or one that it does not know.
    """
    if bits is not None:
        return EngineLogits.load(path, mode=mode, bits=bits)
    if is_packed(check_folder(path)):
        with contextlib.suppress(ModelError):
            return EngineLogits.load(path, mode=mode)
    return ModelLogits(load_causal_model(path, mode=mode))
