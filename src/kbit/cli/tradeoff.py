"""The rows of `kbit demo` and the rule that recommends one of them.

The rule, in words: take the smallest k for which some data type keeps the perplexity within 1 % of the 16-bit model's, where
"keeps" means that the upper end of the paired 95 % interval lies below the limit; among the data types that do so at this k,
take the one with the lowest KL divergence. The interval is paired: both models read the same windows of text, so what is hard
about a window cancels, and a small change can be told from the noise of a short text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kbit.core.errors import ShapeError

__all__ = ["LIMIT", "NAMES", "Recommendation", "Row", "original", "recommend", "series"]

#: how far the perplexity may rise above the 16-bit model's
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
        perplexity_low, perplexity_high: its 95 % interval over the windows of the text.
        ratio_high: upper end of the paired 95 % interval of perplexity / perplexity of the original.
        kl_mean: mean KL divergence to the original, nats a token; `kl_low`, `kl_high` its 95 % interval.
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
    passing = [row for row in encoded if row.ratio_high <= 1 + limit]
    if not passing:
        best = min(encoded, key=lambda row: row.kl_mean)
        lowest = f"{best.scheme} has the lowest KL divergence, {best.kl_mean:.4f}"
        reason = f"no k keeps the perplexity within {limit:.0%} of the 16-bit model's; {lowest}."
        return Recommendation(best, reason)
    k = min(row.k for row in passing)
    best = min((row for row in passing if row.k == k), key=lambda row: row.kl_mean)
    return Recommendation(best, _reason(best, whole, [row for row in encoded if row.k == k - 1], limit))


def _reason(best: Row, whole: Row, below: Sequence[Row], limit: float) -> str:
    rise = best.perplexity / whole.perplexity - 1
    text = (
        f"k = {best.k} is the smallest k whose perplexity stays within {limit:.0%} of the 16-bit model's "
        f"({best.perplexity:.2f} against {whole.perplexity:.2f}, {rise:+.2%}; at most {best.ratio_high - 1:+.2%} at 95 %), "
        f"and {NAMES[best.grid]} has the lowest KL divergence of the data types that do so at this k; "
        f"the file shrinks {whole.file_bytes / best.file_bytes:.2f}×."
    )
    if below:
        nearest = min(below, key=lambda row: row.ratio_high)
        text += f" One bit less costs up to {nearest.ratio_high - 1:+.2%} at best ({nearest.scheme})."
    return text
