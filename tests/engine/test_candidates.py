"""Filters keep what transformers' warpers keep, with the same probabilities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.engine.candidates import candidates
from kbit.engine.sampling_options import SamplingOptions

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 60


def _theirs(scores: np.ndarray, options: SamplingOptions, keep: int) -> np.ndarray:
    """Probabilities after the warpers in the order of `_get_logits_processor`, in float64 so that rounding decides nothing."""
    steps = transformers.LogitsProcessorList([transformers.TemperatureLogitsWarper(float(options.temperature))])
    if options.top_k:
        steps.append(transformers.TopKLogitsWarper(options.top_k, min_tokens_to_keep=keep))
    if options.top_p < 1:
        steps.append(transformers.TopPLogitsWarper(options.top_p, min_tokens_to_keep=keep))
    steps.append(transformers.MinPLogitsWarper(options.min_p, min_tokens_to_keep=keep))
    warped = steps(torch.zeros(1, 1, dtype=torch.int64), torch.from_numpy(scores[None].astype(np.float64)))
    return warped.softmax(-1).numpy()[0]


def _ours(scores: np.ndarray, options: SamplingOptions, keep: int = 1) -> np.ndarray:
    left = candidates(scores, options, keep)
    dense = np.zeros(len(scores))
    dense[left.ids] = left.probabilities()
    return dense


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.integers(0, VOCABULARY + 5),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    keep=st.integers(1, 4),
    forbidden=st.integers(0, 20),
)
def test_transformers_keeps_the_same(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, keep: int, forbidden: int
) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2, VOCABULARY).astype(np.float32)
    scores[random.permutation(VOCABULARY)[:forbidden]] = -np.inf
    options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    np.testing.assert_allclose(_ours(scores, options, keep), _theirs(scores, options, keep), atol=1e-12)


def test_equal_scores_at_the_edge() -> None:
    scores = np.float32([1, 2, 2, 2, 0])
    assert candidates(scores, SamplingOptions(temperature=1, top_k=2)).ids.tolist() == [1, 2, 3]  # all that tie with the second
    assert candidates(scores, SamplingOptions(temperature=1, top_p=0.5)).ids.tolist() == [1, 2]  # lower ids first
    assert candidates(scores, SamplingOptions(temperature=1, top_p=0.0)).ids.tolist() == [1]
    assert candidates(np.zeros(4, dtype=np.float32), SamplingOptions(temperature=1, top_p=0.0)).ids.tolist() == [0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-9])
def test_a_temperature_near_zero_is_the_likeliest(temperature: float) -> None:
    probabilities = _ours(np.float32([3, 3.001, -40]), SamplingOptions(temperature=temperature))
    assert probabilities.tolist() == [0, 1, 0]


def test_a_high_temperature_is_level() -> None:
    np.testing.assert_allclose(_ours(np.float32([30, -30]), SamplingOptions(temperature=1e30)), 0.5)
