"""A draft model follows its sequence through rejections, and gives everything back."""

import numpy as np
import pytest

from kbit.core.errors import ModelError
from kbit.engine.draft_model import DraftModel
from kbit.engine.history import History
from kbit.engine.request import Request
from kbit.engine.sampling_options import SamplingOptions

from .fakes import HashStepper, alone


def test_the_draft_is_what_the_model_would_write() -> None:
    stepper = HashStepper()
    drafter = DraftModel(stepper, SamplingOptions(), 32)
    draft = drafter.propose(History([1, 2, 3]), 5)
    assert list(draft.tokens) == alone(Request((1, 2, 3), 5), HashStepper())
    assert draft.probabilities is None
    drafter.close()
    assert not stepper.live


def test_it_follows_what_was_accepted_and_what_was_not() -> None:
    random, stepper, needed = np.random.default_rng(0), HashStepper(), 0
    drafter, history = DraftModel(stepper, SamplingOptions(), 32), History([1, 2, 3])
    for _ in range(50):
        known = len(history)
        draft = drafter.propose(history, int(random.integers(1, 5)))
        assert list(draft.tokens) == alone(Request(tuple(history.tokens.tolist()), len(draft.tokens)), HashStepper())
        accepted = int(random.integers(0, len(draft.tokens) + 1))
        needed += max(len(draft.tokens) - 1 - accepted, 0)
        other = (draft.tokens[accepted : accepted + 1] or (0,))[0] ^ 1
        for token in (*draft.tokens[:accepted], other, *random.integers(0, 32, random.integers(0, 3)).tolist()):
            history.append(token)
    assert sum(stepper.rows) == known + needed + len(draft.tokens[:-1][:accepted])  # nothing is fed twice but what was rejected
    drafter.close()
    assert not stepper.live


def test_drawn_drafts_tell_what_they_were_drawn_from() -> None:
    options = SamplingOptions(temperature=1.0, top_k=5, seed=3)
    draft = DraftModel(HashStepper(), options, 32).propose(History([1, 2]), 4)
    assert draft.probabilities is not None
    assert draft.probabilities.shape == (4, 32)
    np.testing.assert_allclose(draft.probabilities.sum(axis=1), 1)
    assert ((draft.probabilities > 0).sum(axis=1) == 5).all()
    assert all(row[token] > 0 for row, token in zip(draft.probabilities, draft.tokens, strict=True))


def test_a_full_cache_or_context_drafts_nothing() -> None:
    full, short = HashStepper(capacity=4), HashStepper(context=5)
    assert DraftModel(full, SamplingOptions(), 32).propose(History([1, 2, 3]), 4).tokens == ()
    assert not full.live
    assert DraftModel(short, SamplingOptions(), 32).propose(History([1, 2, 3]), 3).tokens == ()


def test_other_tokens_are_no_use() -> None:
    with pytest.raises(ModelError, match="vocabulary of 32 tokens, got one of 33"):
        DraftModel(HashStepper(33), SamplingOptions(), 32)
