"""How far a k-bit model's next-token distribution is from the original's, token by token.

With logits z (original) and y (k-bit), p = softmax z, q = softmax y:

    KL(p ‖ q) = Σ_v p_v · (log p_v − log q_v)      nats a token
    top-1     = share of tokens with argmax z = argmax y

Subtracting two log-softmaxes loses small divergences in rounding and may come out negative. Instead, with d = y − z and
u = d − Σ_v p_v·d_v (the mean of u under p is 0),

    KL(p ‖ q) = log Σ_v p_v·exp(u_v) = log(1 + Σ_v p_v·(exp(u_v) − 1 − u_v))

whose terms are all ≥ 0: the sum has no cancellation between tokens of the vocabulary, and identical logits give exactly 0. For
|u| below 1e-3, exp(u) − 1 − u comes from its series. All of it is float64.

The tail matters as much as the mean: a model may keep its perplexity and lose single tokens (the 99 %, 99.9 % and largest values).
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kbit.core.errors import ModelError
from kbit.core.progress import Progress
from kbit.evaluate.intervals import Estimate, exponential, quantile_estimate, ratio_estimate
from kbit.evaluate.logits import LogitSource, as_source, batches, inference
from kbit.evaluate.perplexity import Perplexity, row_slices, summarise, token_nats
from kbit.evaluate.windows import Windows

__all__ = ["Comparison", "Divergence", "compare", "token_divergence"]

#: beyond exp(LARGE) the mean of exp(u) is taken in logarithms
LARGE = 50.0


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
        reference: the original; `ReferenceLogits` when several models are held against one.
        windows: what to score.
        batch_size: windows run at once; by default so that a batch of logits stays near 128 MiB.
        progress: True shows a line with the time left on stderr, None only on a terminal, False nothing.

    Raises:
        ModelError: not causal language models, of different vocabularies, or not of this tokenizer.
        ShapeError: the context is beyond a model's positions, or the reference logits are of other windows.
        NumericsError: NaN or Inf among the logits; names the window.
    """
    ours, theirs = as_source(model), as_source(reference)
    if ours.vocabulary != theirs.vocabulary:
        raise ModelError(f"expected models of one vocabulary, got {ours.vocabulary} and the reference's {theirs.vocabulary} tokens")
    for source in (ours, theirs):
        source.check(windows)
    table = _Table(windows)
    with inference(model, reference), Progress(windows.protocol.tokens, "tokens", "divergence", enabled=progress) as bar:
        for batch in batches(windows, batch_size, ours.vocabulary):
            for window, y, z in zip(batch, ours.rows(batch), theirs.rows(batch), strict=True):
                table.put(window.index, token_nats(y, window.scored), token_nats(z, window.scored), *token_divergence(z, y.to(z.device)))
                bar.advance(window.scored.size)
    return table.comparison()


def token_divergence(reference: torch.Tensor, logits: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """KL(reference ‖ logits) in nats, and agreement of the argmax, for each row of two [tokens, vocabulary] tensors."""
    tokens = reference.shape[0]
    divergence, agreement = np.empty(tokens), np.empty(tokens, dtype=np.bool_)
    for part in row_slices(reference):
        z, y = reference[part].double(), logits[part].double()
        agreement[part] = (z.argmax(dim=1) == y.argmax(dim=1)).cpu().numpy()
        divergence[part] = _divergence(z, y).cpu().numpy()
    return divergence, agreement


def _divergence(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    p = torch.softmax(z, dim=1)
    d = y - z
    u = d - (p * d).sum(dim=1, keepdim=True)
    divergence = torch.log1p((p * _expm1_minus(u.clamp(max=LARGE))).sum(dim=1))
    far = u.max(dim=1).values > LARGE
    if bool(far.any()):
        divergence[far] = torch.logsumexp(u[far] + torch.log_softmax(z[far], dim=1), dim=1)
    return divergence


def _expm1_minus(u: torch.Tensor) -> torch.Tensor:
    """exp(u) − 1 − u, to full relative precision near 0."""
    series = u * u * (0.5 + u * (1 / 6 + u * (1 / 24)))
    return torch.where(u.abs() < 1e-3, series, torch.expm1(u) - u)


class _Table:
    """One row a scored token: loss, the original's loss, divergence, agreement."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.counts = windows.scored_tokens()
        self.ends = np.concatenate([[0], np.cumsum(self.counts)])
        self.columns = np.empty((4, windows.protocol.tokens))

    def put(self, index: int, *columns: NDArray[Any]) -> None:
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
