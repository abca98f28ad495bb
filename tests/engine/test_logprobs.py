"""Log-probabilities against torch, and who is among the likeliest."""

import numpy as np
import pytest

from kbit.engine.logprobs import log_softmax, token_logprob


def test_torch_gives_the_same() -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(0, 8, (5, 300)).astype(np.float32)
    logits[2, 7] = -np.inf
    theirs = torch.log_softmax(torch.from_numpy(logits).double(), -1).float().numpy()
    np.testing.assert_array_equal(log_softmax(logits), theirs)


def test_the_token_and_the_likeliest() -> None:
    logits = np.log(np.float32([0.1, 0.4, 0.1, 0.4]))
    found = token_logprob(log_softmax(logits), 2, top=3)
    assert found.token == 2
    assert np.exp(found.logprob) == pytest.approx(0.1)
    assert [token for token, _ in found.top] == [1, 3, 0]  # of equals the lower id
    assert np.exp([logprob for _, logprob in found.top]) == pytest.approx([0.4, 0.4, 0.1])


def test_more_than_there_are() -> None:
    assert len(token_logprob(np.float32([1, 2, 3]), 0, top=9).top) == 3
    assert token_logprob(np.float32([1, 2, 3]), 0).top == ()
