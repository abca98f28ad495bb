"""Speculation changes the steps that a text takes, not the text: the same tokens, or where drafts are drawn, the same distribution."""

import numpy as np
import pytest

from kbit.engine.draft_model import DraftModel
from kbit.engine.drafts import Draft
from kbit.engine.history import History
from kbit.engine.sampling import possible
from kbit.engine.sampling_options import SamplingOptions
from kbit.engine.speculate import Verdict, judge
from kbit.engine.stepper import Feed

from .fakes import HashStepper

VOCABULARY, PROMPT = 4, [1, 2]


def _rows(history: History, draft: Draft, spread: float = 1.5) -> np.ndarray:
    stepper = HashStepper(VOCABULARY, spread=spread)
    tokens = (*history.tokens.tolist(), *draft.tokens)
    return stepper.step([Feed(stepper.sequence(), tokens, "all")])[len(history) - 1 :]


def _verify(history: History, draft: Draft, options: SamplingOptions) -> int:
    """Judge a whole draft; how many of its tokens were accepted."""
    for place, row in enumerate(_rows(history, draft)):
        verdict = judge(row, draft, place, history, options)
        history.append(verdict.token)
        if not verdict.accepted:
            return place
    return len(draft.tokens)


@pytest.mark.parametrize("draft_seed", [0, 1, 5])
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"temperature": 0.6, "top_p": 0.8}, {"temperature": 0.9, "repetition_penalty": 1.5}])
def test_drawn_text_is_distributed_as_without_drafts(draft_seed: int, options: dict) -> None:
    """Chi-square of the first three tokens together, over many seeds, against the product of the model's own probabilities."""
    options, draws = {"temperature": 1.0, **options}, 1500
    counts, accepted = np.zeros((VOCABULARY,) * 3), 0
    drafter = HashStepper(VOCABULARY, spread=1.0, seed=draft_seed)
    for seed in range(draws):
        history, sampling = History(PROMPT), SamplingOptions(seed=seed, **options)
        model = DraftModel(drafter, sampling, VOCABULARY)
        while len(history) < len(PROMPT) + 3:
            accepted += _verify(history, model.propose(history, 2), sampling)
        model.close()
        counts[tuple(history.generated[:3])] += 1
    expected = draws * _exact(SamplingOptions(**options))
    likely = expected > 0
    assert not counts[~likely].any()
    statistic = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    degrees = likely.sum() - 1
    assert statistic < degrees + 3.3 * np.sqrt(2 * degrees) + 5  # about 0.0005
    assert accepted > draws  # the drafts were of use


def _exact(options: SamplingOptions) -> np.ndarray:
    """Probabilities of three tokens in a row."""
    found = np.zeros((VOCABULARY,) * 3)
    for tokens in np.ndindex(found.shape):
        history, probability = History(PROMPT), 1.0
        for token in tokens:
            row = _rows(history, Draft(()))[0]
            probability *= possible(row, history.tokens, 2, options).dense(VOCABULARY)[token]
            history.append(token)
        found[tokens] = probability
    return found


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_without_chance_changes_no_token(temperature: float) -> None:
    random = np.random.default_rng(1)
    for seed in range(60):
        options = SamplingOptions(temperature=temperature, seed=seed)
        plain, drafted = History(PROMPT), History(PROMPT)
        while len(plain) < 30:
            _verify(plain, Draft(()), options)
        while len(drafted) < 30:
            _verify(drafted, Draft(tuple(random.integers(0, VOCABULARY, 3).tolist())), options)
        assert drafted.tokens[:30].tolist() == plain.tokens[:30].tolist()


def test_greedy_text_takes_drawn_drafts_at_their_word_only() -> None:
    """Probabilities beside a draft are of no interest where nothing is drawn."""
    history = History(PROMPT)
    best = int(_rows(history, Draft(()))[0].argmax())
    draft = Draft((best, 0), np.full((2, VOCABULARY), 0.25))
    assert judge(_rows(history, draft)[0], draft, 0, history, SamplingOptions()).accepted


def test_equal_distributions_always_agree() -> None:
    for seed in range(300):
        options, history = SamplingOptions(temperature=1.0, seed=seed), History(PROMPT)
        model = DraftModel(HashStepper(VOCABULARY, spread=1.5), options, VOCABULARY)
        assert _verify(history, model.propose(history, 3), options) == 3


def test_an_impossible_draft_is_replaced() -> None:
    history, options = History(PROMPT), SamplingOptions(temperature=1.0, top_k=1)
    row = _rows(history, Draft(()))[0]
    best = int(row.argmax())
    wrong = (best + 1) % VOCABULARY
    draft = Draft((wrong,), np.eye(VOCABULARY)[[wrong]])
    assert judge(row, draft, 0, history, options) == Verdict(best, False)


def test_rounding_that_leaves_nothing_to_make_up_for() -> None:
    """Where p ≤ q everywhere, (p − q)⁺ is empty: the token is drawn from p."""
    history, drawn = History(PROMPT), set()
    row = _rows(history, Draft(()))[0]
    for seed in range(100):
        verdict = judge(row, Draft((0,), np.ones((1, VOCABULARY))), 0, history, SamplingOptions(temperature=1.0, seed=seed))
        drawn.add(verdict.token)
    assert drawn == set(range(VOCABULARY))
