"""The tokens that may be drawn: temperature, top-k, top-p and min-p, to the same effect as in transformers and in its order.

Each filter hands on the tokens that remain, not a masked vocabulary: after the first of them the rest work on few tokens.
Probabilities are float64, so that a draw does not hang on the last bit of a float32 sum.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kbit.engine.sampling_options import SamplingOptions

__all__ = ["Candidates", "candidates"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that may come next.

    Attributes:
        ids: int64 [count], ascending.
        scores: float64 [count], at most 0 for the likeliest.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]

    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the scores, float64 [count]."""
        weights = np.exp(self.scores - self.scores.max())
        return np.asarray(weights / weights.sum(), dtype=np.float64)

    def dense(self, vocabulary: int) -> NDArray[np.float64]:
        """The probabilities of all tokens, float64 [vocabulary]."""
        whole = np.zeros(vocabulary)
        whole[self.ids] = self.probabilities()
        return whole

    def only(self, kept: NDArray[np.bool_]) -> "Candidates":
        """Those where `kept`."""
        return Candidates(self.ids[kept], self.scores[kept])


def candidates(scores: NDArray[np.float32], options: SamplingOptions, keep: int = 1) -> Candidates:
    """What may be drawn under the options (`temperature` above 0).

    Args:
        scores: float32 [vocabulary], with a finite maximum.
        options: temperature and filters.
        keep: no filter leaves fewer tokens (beam search needs more than one).
    """
    ids = _top_k(scores, max(options.top_k, keep)) if options.top_k else np.flatnonzero(scores > -np.inf)
    # the maximum goes first: a small temperature then underflows to 0 instead of overflowing
    left = Candidates(ids, (scores[ids].astype(np.float64) - float(scores.max())) / options.temperature)
    left = _top_p(left, options.top_p, keep) if options.top_p < 1 else left
    return _min_p(left, options.min_p, keep) if options.min_p > 0 else left


def _top_k(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Ids of the `count` best and of those that tie with the last; temperature keeps the order, so this need not wait for it."""
    least = np.partition(scores, -count)[-count] if count < len(scores) else -np.inf
    return np.flatnonzero((scores >= least) & (scores > -np.inf))


def _top_p(left: Candidates, mass: float, keep: int) -> Candidates:
    """The fewest likeliest tokens that reach `mass`; of equally likely ones those with lower ids."""
    probabilities = left.probabilities()
    # tokens at most this likely cannot matter, all of them together: they need not be sorted
    matter = np.flatnonzero(probabilities > (1 - mass) / len(probabilities))
    matter = matter if len(matter) >= keep else np.arange(len(probabilities))
    order = matter[np.argsort(-probabilities[matter], kind="stable")]
    before = np.cumsum(probabilities[order]) - probabilities[order]
    count = max(keep, int(np.count_nonzero(before < mass)))
    kept = np.zeros(len(probabilities), dtype=np.bool_)
    kept[order[:count]] = True
    return left.only(kept)


def _min_p(left: Candidates, share: float, keep: int) -> Candidates:
    probabilities = left.probabilities()
    kept = probabilities >= share * probabilities.max()
    if np.count_nonzero(kept) < keep:
        kept[np.argsort(-probabilities, kind="stable")[:keep]] = True
    return left.only(kept)
