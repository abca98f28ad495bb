"""Cells and lines of the tables of quality per bit."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

__all__ = ["change", "frontier_kl", "kl", "markdown"]

Row = dict[str, Any]


def frontier_kl(rows: Sequence[Row], bpw: float) -> float | None:
    """KL at so many bits along the rows that no smaller one beats, by lines through log KL; None outside of what they span."""
    line: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["bpw"], row["kl_mean"])):
        if not line or row["kl_mean"] < line[-1]["kl_mean"]:
            line.append(row)
    for low, high in pairwise(line):
        if low["bpw"] <= bpw <= high["bpw"]:
            share = (bpw - low["bpw"]) / (high["bpw"] - low["bpw"])
            return math.exp((1 - share) * math.log(low["kl_mean"]) + share * math.log(high["kl_mean"]))
    return None


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def kl(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}".removeprefix("0")


def change(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio - 1:+.0%}".replace("-", "−")
