"""Advice against truth: random budgets over measured rows, with the asked-for models held out of the fit.

A question is some models of one family and a budget of bytes (of the file where rows have it, else N · bpw / 8). The laws are fitted
without those models; of their rows that fit, the one with the least expected loss is advised, and held against the one that measured
best, and "the largest 4-bit that fits".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kbit.study.book import LawBook
from kbit.study.fitting import fit_laws
from kbit.study.predict import predict_rows
from kbit.study.rows import Row

__all__ = ["judge_advice"]

#: advice this near to the best possible loss counts as right
NEAR = 0.02
#: models asked for at once, and of how many a family must have measured
_ASKED, _LEAST_MODELS = 2, 3


def judge_advice(rows: Sequence[Row], budgets: int, *, seed: int = 0, four_bit: tuple[str, ...] = ("gptq 4",)) -> dict[str, Any]:
    """Share of advice within `NEAR` of the best possible loss, and mean losses of advice, truth and rule of thumb.

    Args:
        rows: measured ones.
        budgets: questions.
        seed: of the questions.
        four_bit: precisions that the rule of thumb takes.
    """
    random = np.random.default_rng(seed)
    families: dict[str, list[tuple[str, str, int]]] = {}
    for row in rows:
        of = families.setdefault(row.series, [])
        if row.model not in of:
            of.append(row.model)
    asked_from = sorted(series for series, models in families.items() if len(models) >= _LEAST_MODELS)
    said: dict[tuple[Any, ...], list[tuple[Row, float]]] = {}
    near, advised, best, thumb = [], [], [], []
    while len(near) < budgets:
        models = families[asked_from[random.integers(len(asked_from))]]
        picked = tuple(sorted(random.choice(len(models), _ASKED, replace=False)))
        asked = tuple(models[at] for at in picked)
        if asked not in said:
            left = [row for row in rows if row.model in asked]
            book = LawBook.of(fit_laws([row for row in rows if row.model not in asked], draws=0))
            said[asked] = [(row, float(np.log(one.perplexity))) for row, one in zip(left, predict_rows(book, left), strict=True)]
        sizes = [_bytes(row) for row, _ in said[asked]]
        budget = np.exp(random.uniform(np.log(min(sizes)), np.log(max(sizes))))
        fitting = [(row, loss) for row, loss in said[asked] if _bytes(row) <= budget]
        choice = min(fitting, key=lambda pair: (pair[1], _bytes(pair[0])))[0]
        advised.append(_loss(choice))
        best.append(min(_loss(row) for row, _ in fitting))
        thumb.append(_loss(_rule_of_thumb([row for row, _ in fitting], four_bit)))
        near.append(advised[-1] <= best[-1] * (1 + NEAR))
    return {
        "questions": budgets,
        "models_held_out": _ASKED,
        "within_2_percent": float(np.mean(near)),
        "mean_loss_advised": float(np.mean(advised)),
        "mean_loss_best": float(np.mean(best)),
        "mean_loss_largest_4_bit": float(np.mean(thumb)),
    }


def _rule_of_thumb(rows: Sequence[Row], four_bit: tuple[str, ...]) -> Row:
    """The largest model in 4 bits; where none fits, the smallest row that does."""
    of = [row for row in rows if row.precision in four_bit]
    return max(of, key=lambda row: row.params) if of else min(rows, key=_bytes)


def _bytes(row: Row) -> float:
    return float(row.extra.get("file_bytes") or row.params * row.bpw / 8)


def _loss(row: Row) -> float:
    return float(np.log(row.perplexity or np.nan))
