from itertools import pairwise

import pytest

from kbit.train.recipe import TrainingOptions
from kbit.train.schedule import learning_rate


def options(**changes: object) -> TrainingOptions:
    values = {"tokens": 100 * 512, "batch_tokens": 512, "warmup_steps": 10, "learning_rate": 1.0, "final_share": 0.1}
    return TrainingOptions(**(values | changes))  # type: ignore[arg-type]


def test_warms_up_and_falls_along_a_cosine() -> None:
    rates = [learning_rate(options(), step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1, abs=1e-3)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_stays_and_falls_along_a_line() -> None:
    rates = [learning_rate(options(constant_share=0.6, decay="linear", final_share=0.02), step) for step in range(100)]
    assert rates[10:61] == [1.0] * 51
    assert rates[80] == pytest.approx(0.51)
    assert rates[99] == pytest.approx(0.02 + 0.98 / 40)


def test_no_warm_up() -> None:
    assert learning_rate(options(warmup_steps=0), 0) == 1.0
