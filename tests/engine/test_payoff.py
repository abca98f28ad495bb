"""Drafts go on while they bring more tokens a millisecond than plain steps."""

import pytest

from kbit.core.errors import SchemeError
from kbit.engine.payoff import Payoff


def _steps(payoff: Payoff, count: int, acceptance: float, plain_ms: float, drafted_ms: float, draft_ms: float) -> list[int]:
    """Tokens drafted in each of so many steps."""
    drafted = []
    for _ in range(count):
        drafted.append(payoff.count)
        payoff.record(drafted[-1], int(acceptance * drafted[-1]), drafted_ms if drafted[-1] else plain_ms, draft_ms if drafted[-1] else 0.0)
    return drafted


def test_plain_steps_are_measured_first() -> None:
    assert _steps(Payoff(trial=3), 5, 1.0, 10, 11, 1)[:4] == [0, 0, 0, 4]


def test_drafts_that_pay_go_on_and_grow() -> None:
    drafted = _steps(Payoff(longest=8, trial=3), 60, 1.0, 10, 12, 2)
    assert drafted[3:7] == [4, 6, 8, 8]
    assert all(drafted[3:])


def test_drafts_that_are_rejected_shrink_and_stop() -> None:
    drafted = _steps(Payoff(trial=5, pause=20), 29, 0.0, 10, 11, 0.5)
    assert drafted == [0] * 5 + [4, 3, 2, 1, 1] + [0] * 19


def test_drafts_that_cost_too_much_stop_though_accepted() -> None:
    """Two of four accepted bring three tokens, for four times the cost."""
    drafted = _steps(Payoff(trial=4, pause=50), 40, 0.5, 10, 20, 20)
    assert not any(drafted[8:])
    assert all(_steps(Payoff(trial=4, pause=50), 40, 0.5, 10, 12, 2)[4:])


def test_they_are_tried_again_after_a_pause() -> None:
    payoff = Payoff(trial=2, pause=10)
    assert not any(_steps(payoff, 14, 0.0, 10, 11, 1)[4:])
    assert all(_steps(payoff, 20, 1.0, 10, 11, 1))


def test_a_step_without_a_draft_is_plain() -> None:
    """A lookup that finds nothing costs no trial."""
    payoff = Payoff(trial=1)
    for _ in range(100):
        payoff.record(0, 0, 5.0, 0.1)
    assert payoff.count == 4


@pytest.mark.parametrize("options", [{"longest": 0}, {"trial": 0}, {"pause": 0}, {"longest": 2.5}])
def test_bad_counts(options: dict) -> None:
    with pytest.raises(SchemeError):
        Payoff(**options)
