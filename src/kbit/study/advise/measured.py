"""A minute of measuring an original whose weights are there, in place of the size curve's guess of it.

What is left to the law is then what encoding adds, and intervals lose the part that is about the original.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from kbit.core.errors import ModelError
from kbit.study.predict import Prediction

__all__ = ["anchored", "measure_loss"]

_CONTEXT = 512
#: what an interval keeps at least, in shares of the damage
_LEAST = 0.25


def measure_loss(folder: str | Path, text: str | Path, seconds: float = 60.0) -> float:
    """Loss of a folder's model on the beginning of a text, nats a token, in about so many seconds.

    Raises:
        ModelError: the folder has no weights, or an architecture that the engine does not know.
        FormatError, StorageError: a folder or text that cannot be read. ShapeError: a text shorter than one window.
    """
    if not any(Path(folder).glob("*.safetensors")):
        raise ModelError(f"{folder}: expected a folder with weights to measure, got none: leave --measure away, or give folders alone")
    from kbit.evaluate.engine_logits import EngineLogits
    from kbit.evaluate.perplexity import perplexity
    from kbit.evaluate.windows import Windows, read_text, tokenize
    from kbit.store.tokenizer import load_tokenizer

    model = EngineLogits.load(folder)
    tokens = tokenize(read_text(text), load_tokenizer(Path(folder)))
    context = min(model.positions or _CONTEXT, _CONTEXT)
    started = time.perf_counter()
    perplexity(model, Windows(tokens, context=context, limit_tokens=context))
    share = seconds / max(time.perf_counter() - started, 1e-6)
    limit = max(int(share), 1) * context
    return float(np.log(perplexity(model, Windows(tokens, context=context, limit_tokens=limit)).perplexity.value))


def anchored(said: Prediction, original: Prediction, loss: float) -> Prediction:
    """A prediction moved to the measured loss of its original; its interval without the part that the original's has.

    Args:
        said: of the encoded model.
        original: of the original, by the same law.
        loss: measured of the original, nats a token.
    """
    damage = max(_log(said.perplexity) - _log(original.perplexity), 0.0)
    own, base = _log(said.high) - _log(said.perplexity), _log(original.high) - _log(original.perplexity)
    half = max(float(np.sqrt(max(own**2 - base**2, 0.0))), _LEAST * damage)
    perplexity, low, high = (float(np.exp(value)) for value in (loss + damage, max(loss + damage - half, 0.0), loss + damage + half))
    return replace(said, perplexity=perplexity, low=low, high=high, note="")


def _log(value: float) -> float:
    return float(np.log(value))
