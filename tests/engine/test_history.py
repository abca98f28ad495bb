"""The growing array of tokens."""

import numpy as np

from kbit.engine.history import History


def test_tokens_of_prompt_and_output() -> None:
    history = History([5, 6, 7])
    for token in range(1000):
        history.append(token)
    assert len(history) == 1003
    assert history.prompt_length == 3
    assert history.tokens.tolist() == [5, 6, 7, *range(1000)]
    assert history.generated.tolist() == list(range(1000))
    assert history.tokens.dtype == np.int32


def test_tokens_are_a_view() -> None:
    history = History([1])
    before = history.tokens
    history.append(2)
    assert np.shares_memory(before, history.tokens)
    assert before.tolist() == [1]
