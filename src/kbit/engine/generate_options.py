"""All that may be asked of a generation, as a value."""

from dataclasses import dataclass, field
from typing import Literal

from kbit.core.errors import SchemeError
from kbit.engine.beam_options import BeamOptions
from kbit.engine.checks import check_count, check_number
from kbit.engine.sampling_options import SamplingOptions
from kbit.engine.stepper import Stepper
from kbit.engine.stop_strings import check_stop_strings

__all__ = ["GenerateOptions"]


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """How a prompt is continued. The defaults take the likeliest token each time.

    Attributes:
        max_tokens: new tokens at most; fewer where the model's context ends.
        sampling: how the next token is chosen.
        beam: with more than one beam, a beam search.
        ends: tokens that end the output: the model's own, and any others. The one that does is the last of `token_ids`, and not shown.
        stop: texts that end the output, and are not shown.
        max_time_ms: what has come by then is the output; None for no limit.
        logprobs: None, or how many of the likeliest tokens to name beside each new token and its log-probability.
        prompt_logprobs: the same for the prompt; not with beams.
        speculate: where drafts come from, not with beams: ``lookup`` (the text itself), or the stepper of a cheaper model with the same
            vocabulary; None for none.

    Raises:
        SchemeError: a value out of range, or options that do not go together.
    """

    max_tokens: int = 128
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    beam: BeamOptions = field(default_factory=BeamOptions)
    ends: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    max_time_ms: float | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    speculate: Literal["lookup"] | Stepper | None = None

    def __post_init__(self) -> None:
        check_count("max_tokens", self.max_tokens, 1)
        if self.max_time_ms is not None:
            check_number("max_time_ms", self.max_time_ms, 0, open_low=True)
        for name, count in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if count is not None:
                check_count(name, count, 0)
        for token in self.ends:
            check_count("a token of ends", token, 0)
        object.__setattr__(self, "ends", frozenset(self.ends))
        object.__setattr__(self, "stop", check_stop_strings(self.stop))
        self._check_source()
        self._check_beams()

    def _check_source(self) -> None:
        if self.speculate not in (None, "lookup") and not isinstance(self.speculate, Stepper):
            raise SchemeError(f"expected speculate to be None, 'lookup' or a stepper, got {self.speculate!r}")

    def _check_beams(self) -> None:
        if self.beam.beams == 1:
            return
        for name, value in (("prompt_logprobs", self.prompt_logprobs), ("speculate", self.speculate)):
            if value is not None:
                raise SchemeError(f"expected no {name} with beams, got {name} and {self.beam.beams} beams")
