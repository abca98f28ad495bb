"""The sanity gate: a few windows through the encoded model, before its folder takes its place.

The original runs first, keeps its logits and is let go; then the encoded model runs on the same tokens. So memory never holds both, and
weights of the original are mapped from its files. Both run in kbit's engine where it knows the architecture, else through transformers. The
number of tokens follows from the size of the model, so that the gate takes seconds.

What is not a causal language model with a tokenizer has no loss to look at, and is not checked: the result says so.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbit.allocate.band import largest_kl
from kbit.core.errors import MissingExtraError, ModelError, NumericsError, QualityError, ShapeError, StorageError
from kbit.engine.engine import Engine
from kbit.evaluate.divergence import compare
from kbit.evaluate.engine_logits import EngineLogits
from kbit.evaluate.logits import LogitSource, ModelLogits, ReferenceLogits
from kbit.evaluate.models import load_causal_model
from kbit.evaluate.windows import Windows, read_text, tokenize
from kbit.store.folder import open_model
from kbit.store.tokenizer import load_tokenizer

__all__ = ["Checked", "Gate", "describe"]

#: multiply-adds that both models may take together, about a second's worth of the slower one
_MULTIPLY_ADDS = 1 << 36
_CONTEXT = 128
_MOST_TOKENS = 2048
#: elements of the original's logits that are kept
_ELEMENTS = 1 << 25


@dataclass(frozen=True, slots=True)
class Checked:
    """What the gate found.

    Attributes:
        kl: KL divergence from the original, nats a token; None where it could not be taken.
        limit: the largest that would have passed.
        loss, reference_loss: nats a token of both.
        tokens: that were scored.
        skipped: why nothing was checked; empty where it was.
    """

    kl: float | None = None
    limit: float | None = None
    loss: float | None = None
    reference_loss: float | None = None
    tokens: int = 0
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


class Gate:
    """Checks a finished folder against its original; what `quantize_folder` takes as `check`.

    Args:
        source: folder of the original.
        texts: files to read; their end is used, which a calibration of a long text leaves alone.
        predicted: KL that the plan was chosen by, where there is one.

    Attributes:
        result: what was found; None before the call.
    """

    def __init__(self, source: Path, texts: tuple[Path, ...], predicted: float | None = None) -> None:
        self._source, self._texts, self._predicted = Path(source), texts, predicted
        self.result: Checked | None = None

    def __call__(self, folder: Path) -> None:
        """Look at the model in `folder`.

        Raises:
            QualityError: logits that are not finite, or a loss beyond the band; the message says where the folder lies.
        """
        try:
            windows = self._windows()
            reference = self._reference(windows)
        except (ModelError, ShapeError, StorageError, MissingExtraError) as error:
            self.result = Checked(skipped=str(error))
            return
        self.result = self._judge(folder, windows, reference)

    def _windows(self) -> Windows:
        tokenizer = load_tokenizer(self._source)
        with open_model(self._source) as stored:
            weights = sum(math.prod(stored.entry(name).shape) for name in stored.names())
            positions = stored.config.get("max_position_embeddings")
            vocabulary = stored.config.get("vocab_size") or 1
        count = min(_MOST_TOKENS, _MULTIPLY_ADDS // (2 * weights), _ELEMENTS // vocabulary)
        context = min(_CONTEXT, positions if isinstance(positions, int) else _CONTEXT)
        count = max(context // 2, count // context * context)
        context = min(context, count)
        tokens = tokenize(_end(read_text(*self._texts), count), tokenizer)
        return Windows(tokens, context=context, limit_tokens=count)

    def _reference(self, windows: Windows) -> ReferenceLogits:
        return ReferenceLogits.of(_open(self._source, mapped=True), windows)

    def _judge(self, folder: Path, windows: Windows, reference: ReferenceLogits) -> Checked:
        with open_model(folder) as stored:
            assert stored.manifest is not None, "the folder was just sealed"
            limit = largest_kl(stored.manifest.modules, self._predicted)
        hint = (
            f"it is left in {folder}, not put in place: 'kbit eval' and 'kbit show --errors' look at it there, --no-check takes it as it is"
        )
        try:
            found = compare(_open(folder, mapped=False), reference, windows)
        except NumericsError as error:
            raise QualityError(f"the encoded model is broken: {error}; {hint}") from None
        kl = found.divergence.kl_mean.value
        checked = Checked(kl, limit, found.loss.nats_per_token.value, found.reference.nats_per_token.value, windows.protocol.tokens)
        if not kl <= limit:
            raise QualityError(
                f"the encoded model lost too much: expected a KL divergence of at most {limit:.3g} nats a token at its bits, got {kl:.3g} "
                f"(loss {checked.loss:.3f}, of the original {checked.reference_loss:.3f}); {hint}"
            )
        return checked


def _open(folder: Path, *, mapped: bool) -> LogitSource:
    """Logits of a folder: in the engine, else through transformers."""
    try:
        return EngineLogits(Engine.load(folder, mapped=mapped, cache="fp32"))
    except ModelError:
        return ModelLogits(load_causal_model(folder))


def _end(text: str, tokens: int) -> str:
    """The end of a text: more than enough characters for so many tokens."""
    return text[-16 * tokens :]


def describe(checked: Checked) -> str:
    """One line for people."""
    if checked.skipped:
        return f"not checked: {checked.skipped}"
    return f"passed: KL {checked.kl:.3g} nats a token on {checked.tokens:,} tokens, at most {checked.limit:.3g} at these bits"
