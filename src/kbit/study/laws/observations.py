"""Rows as arrays, with what an encoded row lost against its own original."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbit.study.laws.robust import Floats
from kbit.study.rows import Row

__all__ = ["LEAST_DAMAGE", "Observations", "log_params"]

#: damage below this is noise of the measurement, nats a token
LEAST_DAMAGE = 0.002


def log_params(rows: Sequence[Row]) -> Floats:
    """Log of parameters in billions, [rows]."""
    return np.log(np.array([row.params for row in rows], np.float64) / 1e9)


@dataclass(frozen=True, slots=True)
class Observations:
    """Measured rows.

    Attributes:
        rows: as given.
        series: names of the series.
        series_index: series of each row.
        log_params: log of parameters in billions.
        log_perplexity: mean loss a token, nats.
        anchor: originals, and where a model has none, its row of the most bits.
        damage: log perplexity above the anchor of the same model in the same series; NaN for anchors.
    """

    rows: tuple[Row, ...]
    series: tuple[str, ...]
    series_index: NDArray[Any]
    log_params: Floats
    log_perplexity: Floats
    anchor: NDArray[np.bool_]
    damage: Floats

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Observations":
        """Observations of rows that have a perplexity."""
        series = tuple(dict.fromkeys(row.series for row in rows))
        loss = np.log(np.array([row.perplexity for row in rows], np.float64))
        anchors: dict[tuple[str, str, int], int] = {}
        for at, row in enumerate(rows):
            key = (row.series, *row.model[1:])
            rank = (row.is_original, row.bpw)
            if key not in anchors or rank > (rows[anchors[key]].is_original, rows[anchors[key]].bpw):
                anchors[key] = at
        own = np.array([anchors[row.series, *row.model[1:]] for row in rows])
        is_anchor = (own == np.arange(len(rows))) | np.array([row.is_original for row in rows])
        damage = np.where(is_anchor, np.nan, loss - loss[own])
        return cls(tuple(rows), series, np.array([series.index(row.series) for row in rows]), log_params(rows), loss, is_anchor, damage)

    @property
    def encoded(self) -> NDArray[np.int64]:
        """Indices of rows that are held against an original."""
        return np.flatnonzero(np.isfinite(self.damage))
