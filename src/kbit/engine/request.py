"""What is asked of a batch, and what has come of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import LimitError, ModelError, SchemeError
from kbit.engine.checks import check_count, check_number
from kbit.engine.drafts import Drafter
from kbit.engine.history import History
from kbit.engine.logprobs import TokenLogprob
from kbit.engine.sampling_options import SamplingOptions
from kbit.engine.stepper import Stepper

__all__ = ["FinishReason", "Output", "Request", "check_prompt"]

#: stop: an ending token, or a callback said so; length: `max_tokens`, the context or the cache is used up
FinishReason = Literal["stop", "length", "deadline", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to continue.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: of output, at most; the context may end it earlier.
        sampling: how tokens are chosen.
        ends: tokens that end the output; the one that does belongs to it.
        max_time_ms: from `submit` on; what has come by then is the output. None for no limit.
        logprobs: None, or how many of the likeliest tokens to name beside each token of the output and its log-probability.
        prompt_logprobs: the same for the prompt.
        on_token: called with each token that does not end the output; True from it ends the output.
        drafter: guesses for speculation; None for none. It serves this request alone.

    Raises:
        SchemeError: a number out of range.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    ends: frozenset[int] = frozenset()
    max_time_ms: float | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    on_token: Callable[[int], bool | None] | None = None
    drafter: Drafter | None = None

    def __post_init__(self) -> None:
        check_count("max_tokens", self.max_tokens, 1)
        if self.max_time_ms is not None:
            check_number("max_time_ms", self.max_time_ms, 0, open_low=True)
        for name, count in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if count is not None:
                check_count(name, count, 0)


class Output:
    """What a request has come to so far.

    Attributes:
        request: what was asked.
        history: tokens of prompt and output.
        logprobs: of the output's tokens, if asked for.
        prompt_logprobs: of the prompt's, if asked for; None for the first token, which follows nothing.
        finish_reason: why it ended; None while it goes on.
        error: with finish reason ``error``, what went wrong.
        times: seconds on the batch's clock at which it was submitted, first admitted, had its first token, and ended.
    """

    def __init__(self, request: Request, submitted: float) -> None:
        self.request = request
        self.history = History(request.prompt)
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob | None] = []
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.times: dict[Literal["submitted", "admitted", "first", "ended"], float] = {"submitted": submitted}
        self.cancelled = False

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Tokens of the output so far, int32: a view, good until the next step."""
        return self.history.generated

    @property
    def finished(self) -> bool:
        """It has ended, for whatever reason."""
        return self.finish_reason is not None

    @property
    def prefill_ms(self) -> float:
        """From admission to the first token, or to the end if none came."""
        return 1e3 * (self.times.get("first", self.times["ended"]) - self.times.get("admitted", self.times["ended"]))

    @property
    def decode_ms(self) -> float:
        """From the first token to the end."""
        return 1e3 * (self.times["ended"] - self.times.get("first", self.times["ended"]))

    def cancel(self) -> None:
        """End it before the next step; may be called from any thread."""
        self.cancelled = True


def check_prompt(prompt: Sequence[int], stepper: Stepper) -> tuple[int, ...]:
    """Token ids that the model can continue.

    Raises:
        ModelError: no token, or one outside the vocabulary.
        LimitError: the prompt leaves no room in the context.
        SchemeError: not whole numbers.
    """
    if not len(prompt):
        raise ModelError("expected a prompt of at least one token, got none")
    if not all(isinstance(token, int | np.integer) and not isinstance(token, bool) for token in prompt):
        raise SchemeError(f"expected token ids to be whole numbers, got {list(prompt)[:8]!r}")
    least, largest = min(prompt), max(prompt)
    if least < 0 or largest >= stepper.vocabulary:
        got = largest if largest >= stepper.vocabulary else least
        raise ModelError(f"expected token ids below {stepper.vocabulary} (the model's vocabulary), got {got}")
    if stepper.context and len(prompt) >= stepper.context:
        raise LimitError(f"expected a prompt shorter than the model's context of {stepper.context} tokens, got {len(prompt)}")
    return tuple(int(token) for token in prompt)
