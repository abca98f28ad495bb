"""Perplexity: exp of the mean negative log-likelihood of the scored tokens, and bits per byte of the text they stand for.

    nats[t] = log Σ_v exp z[t, v] − z[t, target t]          perplexity = exp(Σ nats / tokens)
                                                            bits per byte = Σ nats / (ln 2 · bytes)

Bits per byte does not depend on the tokenizer, perplexity does. Logits are taken in float32 and reduced in float64, a few rows at
a time, so that the extra memory is a few rows in float64 for any vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kbit.core.progress import Progress
from kbit.evaluate.intervals import Estimate, exponential, ratio_estimate
from kbit.evaluate.logits import LogitSource, as_source, batches, inference
from kbit.evaluate.windows import Protocol, Windows

__all__ = ["Perplexity", "perplexity", "row_slices", "summarise", "token_nats"]

#: logits reduced at once: half a MiB in float64, which a core's cache holds; 128 MiB on a GPU, where each reduction costs a launch
REDUCE_ELEMENTS = 1 << 16
_GPU_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Loss of a model on a text, with intervals over the text's chunks.

    Attributes:
        perplexity: exp of the nats a token.
        nats_per_token: mean negative log-likelihood.
        bits_per_byte: the same loss in bits over the UTF-8 bytes of the scored text.
        protocol: how the text was cut.
    """

    perplexity: Estimate
    nats_per_token: Estimate
    bits_per_byte: Estimate
    protocol: Protocol

    def to_json(self) -> dict[str, Any]:
        """JSON object: figures, their ``intervals``, and the protocol."""
        figures = {"perplexity": self.perplexity, "nats_per_token": self.nats_per_token, "bits_per_byte": self.bits_per_byte}
        return {
            **{name: figure.value for name, figure in figures.items()},
            "tokens": self.protocol.tokens,
            "protocol": self.protocol.to_json(),
            "intervals": {name: figure.to_json() for name, figure in figures.items()},
        }


def perplexity(
    model: torch.nn.Module | LogitSource, windows: Windows, *, batch_size: int | None = None, progress: bool | None = False
) -> Perplexity:
    """Perplexity of a causal language model (or of logits kept from one) on the windows of a text.

    Args:
        model: any module with ``model(input_ids).logits``, or a `LogitSource`.
        windows: what to score.
        batch_size: windows run at once; by default so that a batch of logits stays near 128 MiB.
        progress: True shows a line with the time left on stderr, None only on a terminal, False nothing.

    Raises:
        ModelError: not a causal language model, or not of this tokenizer.
        ShapeError: the context is beyond the model's positions.
        NumericsError: NaN or Inf among the logits; names the window.
    """
    source = as_source(model)
    source.check(windows)
    nats = np.zeros(len(windows))
    with inference(model), Progress(windows.protocol.tokens, "tokens", "perplexity", enabled=progress) as bar:
        for batch in batches(windows, batch_size, source.vocabulary):
            for window, rows in zip(batch, source.rows(batch), strict=True):
                nats[window.index] = token_nats(rows, window.scored).sum()
                bar.advance(window.scored.size)
    return summarise(nats, windows)


def token_nats(rows: torch.Tensor, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Negative log-likelihood of each target under logits [tokens, vocabulary], in nats."""
    nats = np.empty(targets.size)
    for part in row_slices(rows):
        logits = rows[part].double()
        wanted = torch.from_numpy(targets[part]).to(logits.device).unsqueeze(1)
        nats[part] = (torch.logsumexp(logits, dim=1) - logits.gather(1, wanted).squeeze(1)).cpu().numpy()
    return nats


def row_slices(rows: torch.Tensor) -> Iterator[slice]:
    """Slices of about as many logits as are reduced at once, one row at least."""
    count = max(1, (REDUCE_ELEMENTS if rows.device.type == "cpu" else _GPU_ELEMENTS) // rows.shape[1])
    return (slice(begin, min(begin + count, rows.shape[0])) for begin in range(0, rows.shape[0], count))


def summarise(nats: NDArray[np.float64], windows: Windows) -> Perplexity:
    """The figures from the nats that each window scored."""
    per_token = ratio_estimate(nats, windows.scored_tokens())
    return Perplexity(
        perplexity=exponential(per_token),
        nats_per_token=per_token,
        bits_per_byte=ratio_estimate(nats / math.log(2), windows.scored_bytes()),
        protocol=windows.protocol,
    )
