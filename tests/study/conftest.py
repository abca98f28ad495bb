"""Rows that are published, rows that a known law made, and laws fitted to both."""

import math
from pathlib import Path

import numpy as np
import pytest

from kbit.study.book import LawBook
from kbit.study.fitting import Fitting, fit_laws
from kbit.study.rows import Row
from kbit.study.tables import read_rows

PUBLISHED = Path(__file__).with_name("published.csv")

#: E, A and the common exponent of the families that `made_rows` makes
CURVES = {"alpha": (2.0, 9.0), "beta": (1.0, 6.0)}
EXPONENT, SIZE_EXPONENT = 0.4, 0.3
LEVELS = {(4, -1): math.log(0.05), (3, -1): math.log(0.3), (3, 128): math.log(0.2)}


def loss_of(family: str, billions: float, bits: int, group: int) -> float:
    floor, scale = CURVES[family]
    loss = math.log(math.exp(floor) + scale * billions**-EXPONENT)
    return loss + (0.0 if bits == 16 else math.exp(LEVELS[bits, group]) * billions**-SIZE_EXPONENT)


def made_rows(noise: float = 0.0, sizes: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)) -> list[Row]:
    random = np.random.default_rng(0)
    rows = []
    for family in CURVES:
        for billions in sizes:
            for bits, group in ((16, -1), *LEVELS):
                loss = loss_of(family, billions, bits, group) + noise * random.standard_normal()
                method = "none" if bits == 16 else "gptq"
                bpw = bits + (0 if group == -1 else 16 / group)
                rows.append(
                    Row(family, round(billions * 1e9), method, bits, group, bpw, "text", 2048, math.exp(loss), f"made: row {len(rows)}")
                )
    return rows


@pytest.fixture(scope="session")
def published() -> tuple[Row, ...]:
    return read_rows(PUBLISHED)


@pytest.fixture(scope="session")
def fitting(published: tuple[Row, ...]) -> Fitting:
    return fit_laws(published, draws=4)


@pytest.fixture(scope="session")
def book(fitting: Fitting) -> LawBook:
    return LawBook.of(fitting)
