"""A prompt in chunks gives the logits that it gives at once."""

import numpy as np
import pytest

from kbit.engine.prefill import PREFILL_TOKENS, prefill
from kbit.engine.stepper import Feed

from .fakes import HashStepper


@pytest.mark.parametrize("count", [1, PREFILL_TOKENS, PREFILL_TOKENS + 1, 3 * PREFILL_TOKENS - 1])
def test_the_last_row(count: int) -> None:
    tokens = np.random.default_rng(0).integers(0, 32, count).astype(np.int32)
    stepper, other = HashStepper(), HashStepper()
    row = prefill(stepper, stepper.sequence(), tokens, lambda: False)
    np.testing.assert_array_equal(row, other.step([Feed(other.sequence(), tokens)])[0])
    assert max(stepper.rows) <= PREFILL_TOKENS


def test_it_is_asked_between_chunks() -> None:
    stepper = HashStepper()
    tokens = np.zeros(10 * PREFILL_TOKENS, dtype=np.int32)
    assert prefill(stepper, stepper.sequence(), tokens, lambda: len(stepper.rows) == 3) is None
    assert len(stepper.rows) == 3
