"""Options are checked where they are made, and against each other."""

from typing import Any

import pytest

from kbit.core.errors import SchemeError
from kbit.engine.beam_options import BeamOptions
from kbit.engine.generate_options import GenerateOptions

from .fakes import HashStepper


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens to be a whole number of at least 1, got 0"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_time_ms": 0}, "max_time_ms to be a number above 0, got 0"),
        ({"max_time_ms": float("nan")}, "max_time_ms"),
        ({"logprobs": -1}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"ends": frozenset([-1])}, "a token of ends"),
        ({"stop": ("",)}, "stop strings of at least one character, got ''"),
        ({"stop": "end"}, "a list of stop strings, got the one string 'end'"),
        ({"speculate": "luck"}, "None, 'lookup' or a stepper, got 'luck'"),
        ({"beam": BeamOptions(beams=2), "prompt_logprobs": 0}, "no prompt_logprobs with beams"),
        ({"beam": BeamOptions(beams=2), "speculate": "lookup"}, "no speculate with beams, got speculate and 2 beams"),
    ],
)
def test_a_bad_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        GenerateOptions(**options)


def test_values_are_made_plain() -> None:
    options = GenerateOptions(ends={1, 2}, stop=["a", "b", "a"], speculate=HashStepper())  # type: ignore[arg-type]
    assert options.ends == frozenset([1, 2])
    assert options.stop == ("a", "b")
