"""Options of a beam search are checked where they are made."""

import math
from typing import Any

import pytest

from kbit.core.errors import SchemeError
from kbit.engine.beam_options import BeamOptions


@pytest.mark.parametrize(
    "options",
    [
        {"beams": 0},
        {"beams": 2.0},
        {"beams": 4, "returned": 5},
        {"beams": 4, "returned": 0},
        {"length_penalty": math.nan},
        {"length_penalty": -math.inf},
        {"early_stopping": "always"},
        {"early_stopping": None},
    ],
)
def test_a_bad_value(options: dict[str, Any]) -> None:
    with pytest.raises(SchemeError, match=r"expected (beams|returned|length_penalty|early_stopping) .*, got"):
        BeamOptions(**options)
