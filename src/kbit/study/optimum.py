"""The optimum k by budget: with so many bits for all of a family's weights, a larger model in fewer bits or a smaller one in more?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kbit.study.book import LawBook
from kbit.study.predict import predict_rows
from kbit.study.rows import Row, weight_counts

__all__ = ["Optimum", "optima"]


@dataclass(frozen=True, slots=True)
class Optimum:
    """At a budget of bits for all encoded weights: the precision that the laws expect the least loss of, its size, and the loss in nats."""

    total_bits: float
    precision: str
    bits: float
    bpw: float
    params: float
    loss: float


def optima(book: LawBook, rows: Sequence[Row], budgets: int = 60) -> list[Optimum]:
    """Optima over the budgets that the rows of one series span, sizes taken as continuous, a precision within its own measured sizes.

    Args:
        book: the laws.
        rows: of one series.
        budgets: number of them, even in the logarithm.
    """
    shapes = list({row.precision: row for row in rows}.values())
    counts = weight_counts(rows)
    sizes = {shape.precision: [counts[row.model] for row in rows if row.precision == shape.precision] for shape in shapes}
    params_of = _parameters({counts[row.model]: row.params for row in rows})
    span = [counts[row.model] * row.bpw for row in rows]
    out: list[Optimum] = []
    for total in np.geomspace(min(span), max(span), budgets):
        fitting = [
            replace(shape, params=round(params_of(total / shape.bpw)))
            for shape in shapes
            if min(sizes[shape.precision]) * 0.9999 <= total / shape.bpw <= max(sizes[shape.precision]) * 1.0001
        ]
        if fitting:
            losses = [float(np.log(one.perplexity)) for one in predict_rows(book, fitting)]
            at = int(np.argmin(losses))
            best = fitting[at]
            out.append(Optimum(float(total), best.precision, best.bits, best.bpw, float(best.params), losses[at]))
    return out


def _parameters(known: Mapping[float, int]) -> Callable[[float], float]:
    """Parameters of a model of so many encoded weights, between the known ones in the logarithm of both."""
    weights = np.log(sorted(known))
    params = np.log([known[count] for count in sorted(known)])
    return lambda count: float(np.exp(np.interp(np.log(count), weights, params)))
