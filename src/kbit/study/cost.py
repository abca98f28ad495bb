"""What a cell will cost, before it runs: multiply-adds, and seconds by the rate of this machine or of rows that are there already."""

import time
from collections.abc import Iterable
from statistics import median

import numpy as np

from kbit.core.methods import needs_inputs
from kbit.core.scheme import Scheme
from kbit.study.cell import QualityCell, SpeedCell

__all__ = ["cell_gmacs", "measured_rate", "probe_rate"]

#: share of a large matrix product's rate that small models reach, encoding included
_EFFICIENCY = 0.15
#: tokens' worth of work that encoding takes, by method
_NEAREST_TOKENS, _IMPORTANCE_TOKENS, _GPTQ_TOKENS = 200, 2_000, 6_000
_PROBE_SIZE = 512
#: rows from which a rate is taken
_LEAST_ROWS = 5


def cell_gmacs(cell: QualityCell | SpeedCell, text_tokens: int) -> float:
    """10⁹ multiply-adds of a cell: a forward pass is one a parameter and token, calibration runs every layer twice.

    Args:
        cell: it.
        text_tokens: tokens scored where the cell scores the whole text.
    """
    if isinstance(cell, SpeedCell):
        return cell.params * (cell.prompt_tokens + cell.decode_tokens) * (cell.repeats + 1) / 1e9
    tokens = cell.windows * cell.context or text_tokens
    methods = Scheme.parse(cell.scheme).methods
    tokens += 2 * cell.calibration_tokens
    tokens += _GPTQ_TOKENS if "gptq" in methods else _IMPORTANCE_TOKENS if needs_inputs(methods) else _NEAREST_TOKENS
    return cell.params * tokens / 1e9


def measured_rate(cells: Iterable[tuple[float, float]]) -> float | None:
    """10⁹ multiply-adds a second of cells that were measured, (10⁹ multiply-adds, seconds) each: their median; None for fewer than five."""
    rates = [gmacs / seconds for gmacs, seconds in cells if seconds > 0]
    return median(rates) if len(rates) >= _LEAST_ROWS else None


def probe_rate() -> float:
    """10⁹ multiply-adds a second that one core may be expected to reach on cells, from a short product of matrices."""
    matrix = np.ones((_PROBE_SIZE, _PROBE_SIZE), np.float32)
    best = 1e9
    for _ in range(5):
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return _EFFICIENCY * _PROBE_SIZE**3 / best / 1e9
