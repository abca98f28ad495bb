"""Requests and prompts are checked before any step."""

from typing import Any

import numpy as np
import pytest

from kbit.core.errors import LimitError, ModelError, SchemeError
from kbit.engine.request import Output, Request, check_prompt

from .fakes import HashStepper


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"max_tokens": -3},
        {"max_tokens": 1.5},
        {"max_time_ms": 0},
        {"max_time_ms": -1.0},
        {"max_time_ms": float("nan")},
        {"logprobs": -1},
        {"prompt_logprobs": -1},
    ],
)
def test_numbers_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(SchemeError, match=rf"expected {next(iter(options))} to be .*, got"):
        Request((1,), **{"max_tokens": 5, **options})


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([], ModelError, "at least one token, got none"),
        ([1, 32], ModelError, r"below 32 \(the model's vocabulary\), got 32"),
        ([1, -1], ModelError, "got -1"),
        ([1, 2.0], SchemeError, "whole numbers"),
        ([True], SchemeError, "whole numbers"),
        ([1] * 10, LimitError, "shorter than the model's context of 10 tokens, got 10"),
    ],
)
def test_prompts_that_no_model_continues(prompt: list, error: type[Exception], message: str) -> None:
    stepper = HashStepper(context=10)
    with pytest.raises(error, match=message):
        check_prompt(prompt, stepper)
    assert not stepper.rows


def test_a_prompt_becomes_plain_numbers() -> None:
    assert check_prompt(np.array([1, 31], dtype=np.int64), HashStepper(context=3)) == (1, 31)
    assert check_prompt([1] * 1000, HashStepper()) == (1,) * 1000


def test_times_add_up() -> None:
    output = Output(Request((1,), 5), 1.0)
    output.times |= {"admitted": 2.0, "first": 2.5, "ended": 4.0}
    assert (output.prefill_ms, output.decode_ms) == (500, 1500)
    del output.times["first"]
    assert (output.prefill_ms, output.decode_ms) == (2000, 0)
    del output.times["admitted"]
    assert (output.prefill_ms, output.decode_ms) == (0, 0)
