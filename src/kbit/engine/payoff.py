"""Whether drafts pay for one sequence, from what its steps have cost and brought.

A plain step brings one token, a step with a draft 1 + accepted. Drafts pay while

    (1 + accepted) / (step_ms + draft_ms)  >  1 / plain_step_ms

in running means of both sides. Times are handed in, so that the rule can be tested, and so that it holds for whatever shares the steps.
"""

from kbit.engine.checks import check_count

__all__ = ["Payoff"]

#: weight of the newest step in the running means
NEWEST = 0.2


class Payoff:
    """Says how many tokens to draft next.

    Args:
        longest: tokens of a draft, at most.
        trial: steps of a kind that are measured before it is judged.
        pause: plain steps after drafts did not pay, before they are tried again.

    Raises:
        SchemeError: a count below 1.
    """

    def __init__(self, longest: int = 8, trial: int = 5, pause: int = 64) -> None:
        check_count("longest", longest, 1)
        check_count("trial", trial, 1)
        check_count("pause", pause, 1)
        self._longest, self._trial, self._pause = longest, trial, pause
        self._length = min(4, longest)
        self._plain_left, self._tried = trial, 0
        self._plain_ms = self._drafted_ms = self._drafted_tokens = 0.0

    @property
    def count(self) -> int:
        """Tokens to draft for the next step; 0 for a plain one."""
        return 0 if self._plain_left else self._length

    def record(self, drafted: int, accepted: int, step_ms: float, draft_ms: float) -> None:
        """What a step cost and brought.

        Args:
            drafted: tokens of its draft; 0 for a plain step.
            accepted: of these.
            step_ms: time of the step.
            draft_ms: time of the draft.
        """
        if drafted:
            self._record_draft(drafted, accepted, step_ms + draft_ms)
        else:
            self._plain_ms = _mean(self._plain_ms, step_ms)
            self._plain_left = max(self._plain_left - 1, 0)

    def _record_draft(self, drafted: int, accepted: int, cost_ms: float) -> None:
        self._tried += 1
        self._drafted_ms = _mean(self._drafted_ms, cost_ms)
        self._drafted_tokens = _mean(self._drafted_tokens, 1 + accepted)
        # a draft taken whole might have been longer (as in Gante 2023); one cut short need not be longer than what was of use
        self._length = min(self._length + 2, self._longest) if accepted == drafted else max(self._length - 1, accepted + 1)
        if self._tried >= self._trial and self._drafted_tokens * self._plain_ms <= self._drafted_ms:
            self._plain_left, self._tried = self._pause, 0
            self._drafted_ms = self._drafted_tokens = 0.0


def _mean(before: float, new: float) -> float:
    """Running mean; the first value counts whole."""
    return new if before == 0 else before + NEWEST * (new - before)
