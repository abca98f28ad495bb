"""Options are checked where they are made."""

import math
from typing import Any

import pytest

from kbit.core.errors import SchemeError
from kbit.engine.sampling_options import SamplingOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf),
        ("no_repeat_ngram", -2),
        ("seed", -1),
        ("seed", 2**64),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: math.inf}),
        ("logit_bias", [(1, 2.0)]),
    ],
)
def test_a_bad_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(SchemeError, match=rf"expected .*{name}.*, got"):
        SamplingOptions(**{name: value})


def test_options_are_values() -> None:
    bias = {3: -1.0, 4: -math.inf}
    options = SamplingOptions(logit_bias=bias)
    bias[5] = 9.0  # the options keep their own
    assert options == SamplingOptions(logit_bias={3: -1.0, 4: -math.inf})
    assert hash(options) == hash(SamplingOptions())
    assert options != SamplingOptions()
    assert not options.draws
    assert SamplingOptions(temperature=0.1).draws
