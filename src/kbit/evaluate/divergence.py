"""How far a k-bit model's next-token distribution is from the original's, token by token.

With logits z (original) and y (k-bit), p = softmax z, q = softmax y:

    KL(p ‖ q) = Σ_v p_v · (log p_v − log q_v)      nats a token
    top-1     = share of tokens with argmax z = argmax y

Logits are those of the model in float32; log-softmax, difference and sum are float64, so a divergence is right to about 1e-15 nats
(one of 1e-6 nats to nine digits), never negative, and exactly 0 for identical logits: both log-softmaxes are then the same numbers.

The tail matters as much as the mean: a model may keep its perplexity and lose single tokens (the 99 %, 99.9 % and largest values).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kbit.core.errors import ModelError
from kbit.core.progress import Progress
from kbit.evaluate.intervals import Estimate, exponential, quantile_estimate, ratio_estimate
from kbit.evaluate.logits import LogitSource, as_source, batches, inference
from kbit.evaluate.perplexity import Perplexity, row_slices, summarise
from kbit.evaluate.windows import Windows

__all__ = ["Comparison", "Divergence", "compare", "compare_all", "token_columns"]


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(original ‖ k-bit) in nats a token and its tail, agreement of the most likely token, and what it cost in perplexity.

    Attributes:
        kl_mean, kl_median, kl_p99, kl_p999, kl_max: of the tokens' divergences; `kl_max` has no interval.
        top1_agreement: share of tokens whose most likely next token is the original's.
        perplexity_ratio: perplexity over the original's, with the paired interval.
    """

    kl_mean: Estimate
    kl_median: Estimate
    kl_p99: Estimate
    kl_p999: Estimate
    kl_max: Estimate
    top1_agreement: Estimate
    perplexity_ratio: Estimate

    def to_json(self) -> dict[str, Any]:
        """JSON object: figures and their ``intervals``."""
        figures: dict[str, Estimate] = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {name: figure.value for name, figure in figures.items()}
        return {**values, "intervals": {name: figure.to_json() for name, figure in figures.items()}}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Loss of a model and of the original it is held against, on the same windows, and the divergence between them."""

    loss: Perplexity
    reference: Perplexity
    divergence: Divergence


def compare(
    model: torch.nn.Module | LogitSource,
    reference: torch.nn.Module | LogitSource,
    windows: Windows,
    *,
    batch_size: int | None = None,
    progress: bool | None = False,
) -> Comparison:
    """Runs a model beside its original over the windows of a text.

    Args:
        model: the k-bit model, any module with ``model(input_ids).logits``, or a `LogitSource`.
        reference: the original; `ReferenceLogits` when models that do not fit in memory together are held against one.
        windows: what to score.
        batch_size: windows run at once; by default so that a batch of logits stays near 128 MiB.
        progress: True shows a line with the time left on stderr, None only on a terminal, False nothing.

    Raises:
        ModelError: not causal language models, of different vocabularies, or not of this tokenizer.
        ShapeError: the context is beyond a model's positions, or the reference logits are of other windows.
        NumericsError: NaN or Inf among the logits; names the window.
    """
    return compare_all([model], reference, windows, batch_size=batch_size, progress=progress)[0]


def compare_all(
    models: Sequence[torch.nn.Module | LogitSource],
    reference: torch.nn.Module | LogitSource,
    windows: Windows,
    *,
    batch_size: int | None = None,
    progress: bool | None = False,
) -> list[Comparison]:
    """`compare` for several models in one pass: the original runs once, and no logits outlive their batch of windows."""
    ours, theirs = [as_source(model) for model in models], as_source(reference)
    for source in ours:
        if source.vocabulary != theirs.vocabulary:
            raise ModelError(f"expected models of one vocabulary, got {source.vocabulary} and the reference's {theirs.vocabulary} tokens")
    for source in (*ours, theirs):
        source.check(windows)
    tables = [_Table(windows) for _ in ours]
    with inference(reference, *models), Progress(windows.protocol.tokens, "tokens", "divergence", enabled=progress) as bar:
        for batch in batches(windows, batch_size, theirs.vocabulary * len(ours)):
            found = [source.rows(batch) for source in ours]
            for index, (window, wanted) in enumerate(zip(batch, theirs.rows(batch), strict=True)):
                columns = token_columns(wanted, [rows[index] for rows in found], window.scored)
                for table, column in zip(tables, columns, strict=True):
                    table.put(window.index, column)
            bar.advance(sum(window.scored.size for window in batch))
    return [table.comparison() for table in tables]


def token_columns(reference: torch.Tensor, models: Sequence[torch.Tensor], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """What several models say about the same tokens as a reference, each [tokens, vocabulary].

    Returns:
        float64 [models, 4, tokens]: nats of each target under the model and under `reference`, KL(reference ‖ model) in nats, and 1
        where the most likely token is the same.
    """
    columns = np.empty((len(models), 4, targets.size))
    for part in row_slices(reference):
        log_p = torch.log_softmax(reference[part], dim=1, dtype=torch.float64)
        p, best = log_p.exp(), reference[part].argmax(dim=1)
        wanted = torch.from_numpy(targets[part]).to(log_p.device).unsqueeze(1)
        nats = -log_p.gather(1, wanted).squeeze(1).cpu().numpy()
        for column, logits in zip(columns, models, strict=True):
            log_q = torch.log_softmax(logits[part].to(log_p.device), dim=1, dtype=torch.float64)
            column[0, part] = -log_q.gather(1, wanted).squeeze(1).cpu().numpy()
            column[1, part] = nats
            column[3, part] = (best == logits[part].argmax(dim=1).to(best.device)).cpu().numpy()
            column[2, part] = log_q.neg_().add_(log_p).mul_(p).sum(dim=1).clamp_(min=0.0).cpu().numpy()
    return columns


class _Table:
    """One column a scored token; rows as `token_columns` has them."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.counts = windows.scored_tokens()
        self.ends = np.concatenate([[0], np.cumsum(self.counts)])
        self.columns = np.empty((4, windows.protocol.tokens))

    def put(self, index: int, columns: NDArray[np.float64]) -> None:
        self.columns[:, self.ends[index] : self.ends[index + 1]] = columns

    def comparison(self) -> Comparison:
        ours, theirs, divergence, agreement = np.add.reduceat(self.columns, self.ends[:-1], axis=1)
        return Comparison(
            loss=summarise(ours, self.windows),
            reference=summarise(theirs, self.windows),
            divergence=Divergence(
                kl_mean=ratio_estimate(divergence, self.counts).clipped(0.0, math.inf),
                kl_median=self._quantile(0.5),
                kl_p99=self._quantile(0.99),
                kl_p999=self._quantile(0.999),
                kl_max=Estimate(float(self.columns[2].max())),
                top1_agreement=ratio_estimate(agreement, self.counts).clipped(0.0, 1.0),
                perplexity_ratio=exponential(ratio_estimate(ours - theirs, self.counts)),
            ),
        )

    def _quantile(self, share: float) -> Estimate:
        owner = np.repeat(np.arange(self.counts.size), self.counts)
        return quantile_estimate(self.columns[2], owner, share)
