"""The rows of `kbit demo` and the rule that recommends one of them.

The rule, in words: take the smallest k for which some data type keeps the predictions within 0.01 nats a token of the 16-bit
model's (the upper end of the 95% interval of the mean KL divergence lies below that); among the data types that do so at this
k, take the one with the lowest divergence. 0.01 nats is a rise of perplexity by 1% on text that the 16-bit model would write.

Why not the perplexity of the test text: which model happens to favour the words of a short text is noise of the same size as
the losses in question. The divergence compares whole distributions, so that a few thousand tokens order the rows reliably.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kbit.core.errors import ShapeError

__all__ = ["LIMIT", "NAMES", "Recommendation", "Row", "original", "recommend", "series"]

#: mean KL divergence that is small enough, nats a token
LIMIT = 0.01

#: grid → its name in tables and plots
NAMES = {"int": "linear", "float": "float", "nf": "normal", "log": "log", "kmeans": "k-means"}


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded model, measured.

    Attributes:
        scheme: text of the scheme of the linear layers; ``"16"`` for the original.
        grid: data type, ``"none"`` for the original.
        k: bits a code.
        bpw: stored bits per encoded weight, embedding included.
        file_bytes: size of the weight files.
        perplexity: exp of the mean loss over the text.
        perplexity_low, perplexity_high: its 95% interval over the windows of the text.
        ratio_high: upper end of the paired 95% interval of perplexity / perplexity of the original.
        kl_mean: mean KL divergence to the original, nats a token; `kl_low`, `kl_high` its 95% interval.
        top1_agreement: share of tokens where both models name the same next token first.
        decode_tokens_per_s: speed of writing, one sequence.
    """

    scheme: str
    grid: str
    k: int
    bpw: float
    file_bytes: int
    perplexity: float
    perplexity_low: float
    perplexity_high: float
    ratio_high: float
    kl_mean: float
    kl_low: float
    kl_high: float
    top1_agreement: float
    decode_tokens_per_s: float

    def to_json(self) -> dict[str, Any]:
        """JSON object with every figure."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The row to take, and why, in a sentence."""

    row: Row
    reason: str


def series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by data type in the order of `NAMES`, k ascending, without the original."""
    return {grid: found for grid in NAMES if (found := sorted((row for row in rows if row.grid == grid), key=lambda row: row.k))}


def original(rows: Sequence[Row]) -> Row:
    """The 16-bit row.

    Raises:
        ShapeError: the rows hold none, or more than one.
    """
    found = [row for row in rows if row.grid == "none"]
    if len(found) != 1:
        raise ShapeError(f"expected one 16-bit row, got {len(found)}")
    return found[0]


def recommend(rows: Sequence[Row], limit: float = LIMIT) -> Recommendation:
    """The row that the rule of this module picks; the one with the lowest KL divergence where none passes the limit."""
    whole = original(rows)
    encoded = [row for row in rows if row.grid != "none"]
    if not encoded:
        raise ShapeError("expected at least one encoded row, got none")
    passing = [row for row in encoded if row.kl_high <= limit]
    if not passing:
        best = min(encoded, key=lambda row: row.kl_mean)
        text = (
            f"no k keeps the KL divergence to the 16-bit model within {limit:g} nats a token; {best.scheme} is nearest, {best.kl_mean:.4f}."
        )
        return Recommendation(best, text)
    k = min(row.k for row in passing)
    best = min((row for row in passing if row.k == k), key=lambda row: row.kl_mean)
    return Recommendation(best, _reason(best, whole, [row for row in encoded if row.k == k - 1], limit))


def _reason(best: Row, whole: Row, below: Sequence[Row], limit: float) -> str:
    rise = best.perplexity / whole.perplexity - 1
    text = (
        f"k = {best.k} is the smallest k that stays within {limit:g} nats a token of the 16-bit model's predictions "
        f"(KL divergence {best.kl_mean:.4f}, at most {best.kl_high:.4f} at 95%), and {NAMES[best.grid]} is the nearest data type at "
        f"this k. The perplexity of the text goes from {whole.perplexity:.2f} to {best.perplexity:.2f} ({rise:+.2%}), and the file shrinks "
        f"{whole.file_bytes / best.file_bytes:.2f}×."
    )
    if below:
        nearest = min(below, key=lambda row: row.kl_mean)
        text += f" One bit less: {nearest.kl_mean:.4f} at best ({nearest.scheme})."
    return text
