"""The choice of a token: the likeliest, or drawn as often as its probability says."""

import numpy as np
import pytest

from kbit.core.errors import NumericsError
from kbit.engine.sampling import choose
from kbit.engine.sampling_options import SamplingOptions

LOGITS = np.float32([0.5, 2.0, 2.0, -1.0, 1.0])


def _tokens(length: int) -> np.ndarray:
    return np.zeros(length, dtype=np.int32)


def test_the_likeliest_and_of_equals_the_lower_id() -> None:
    assert choose(LOGITS, _tokens(3), 3, SamplingOptions()) == 1
    assert choose(LOGITS, _tokens(3), 3, SamplingOptions(logit_bias={2: 0.1})) == 2


def test_a_draw_hangs_on_seed_and_position() -> None:
    def drawn(seed: int) -> list[int]:
        return [choose(LOGITS, _tokens(n), n, SamplingOptions(temperature=1, seed=seed)) for n in range(1, 40)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 5


def test_frequencies_are_the_probabilities() -> None:
    options = SamplingOptions(temperature=1.5, seed=4)
    drawn = [choose(LOGITS, _tokens(n), n, options) for n in range(1, 6001)]
    expected = 6000 * np.exp(LOGITS / 1.5) / np.exp(LOGITS / 1.5).sum()
    assert (((np.bincount(drawn, minlength=5) - expected) ** 2) / expected).sum() < 18.5  # chi-square of 4 degrees at 0.001


def test_filters_bound_the_draw() -> None:
    drawn = {choose(LOGITS, _tokens(n), n, SamplingOptions(temperature=3, top_k=2)) for n in range(1, 200)}
    assert drawn == {1, 2}


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_logits(temperature: float, bad: float) -> None:
    logits = LOGITS.copy()
    logits[3] = bad
    with pytest.raises(NumericsError, match=r"expected finite logits, got (nan|inf) for 1 of 5 tokens"):
        choose(logits, _tokens(1), 1, SamplingOptions(temperature=temperature))


@pytest.mark.parametrize("temperature", [0, 1])
def test_every_token_forbidden(temperature: float) -> None:
    options = SamplingOptions(temperature=temperature, no_repeat_ngram=1)
    with pytest.raises(NumericsError, match="are all forbidden"):
        choose(LOGITS, np.arange(5, dtype=np.int32), 5, options)
