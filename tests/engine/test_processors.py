"""Scores after the processors are transformers', number for number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import SchemeError
from kbit.engine.processors import process
from kbit.engine.sampling_options import SamplingOptions

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 40


def _case(seed: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(0, 3, VOCABULARY).astype(np.float32), random.integers(0, VOCABULARY // 4, length).astype(np.int32)


def _theirs(scores: np.ndarray, tokens: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """In the order in which `GenerationMixin._get_logits_processor` puts them."""
    steps = transformers.LogitsProcessorList()
    if options.logit_bias:
        steps.append(transformers.SequenceBiasLogitsProcessor([[[token], bias] for token, bias in options.logit_bias.items()]))
    steps.append(transformers.RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
    if options.no_repeat_ngram:
        steps.append(transformers.NoRepeatNGramLogitsProcessor(options.no_repeat_ngram))
    return steps(torch.from_numpy(tokens[None].astype(np.int64)), torch.from_numpy(scores[None])).numpy()[0]


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 60),
    penalty=st.sampled_from([0.5, 1.0, 1.3]),
    size=st.integers(0, 5),
    bias=st.dictionaries(st.integers(0, VOCABULARY - 1), st.floats(-5, 5, width=32), max_size=4),
)
def test_transformers_gives_the_same_scores(seed: int, length: int, penalty: float, size: int, bias: dict[int, float]) -> None:
    scores, tokens = _case(seed, length)
    before = scores.copy()
    options = SamplingOptions(repetition_penalty=penalty, no_repeat_ngram=size, logit_bias=bias)
    np.testing.assert_array_equal(process(scores, tokens, 1, options), _theirs(scores, tokens, options))
    np.testing.assert_array_equal(scores, before)


def test_nothing_on_copies_nothing() -> None:
    scores, tokens = _case(0, 5)
    assert process(scores, tokens, 5, SamplingOptions(temperature=2, top_k=3)) is scores


def test_presence_and_frequency_count_the_output_alone() -> None:
    scores = np.zeros(6, dtype=np.float32)
    tokens = np.array([1, 1, 2, 3, 3, 3, 2], dtype=np.int32)  # a prompt of 3, an output of 4
    options = SamplingOptions(presence_penalty=0.5, frequency_penalty=0.25)
    np.testing.assert_array_equal(process(scores, tokens, 3, options), np.float32([0, 0, -0.75, -1.25, 0, 0]))


def test_penalties_stand_after_the_repetition_penalty() -> None:
    options = SamplingOptions(repetition_penalty=2.0, presence_penalty=1.0, logit_bias={0: 3.0})
    scores = process(np.float32([1, 0]), np.array([1, 0], dtype=np.int32), 1, options)
    assert scores[0] == np.float32((1 + 3) / 2 - 1)


def test_all_ngrams_of_a_long_text() -> None:
    tokens = np.array([1, 2, 3, 1, 2, 4, 1, 2], dtype=np.int32)
    scores = process(np.zeros(6, dtype=np.float32), tokens, 0, SamplingOptions(no_repeat_ngram=3))
    assert np.flatnonzero(np.isneginf(scores)).tolist() == [3, 4]


def test_a_bias_outside_the_vocabulary() -> None:
    scores, tokens = _case(0, 5)
    with pytest.raises(SchemeError, match=r"tokens below 40 \(the model's vocabulary\), got token 40"):
        process(scores, tokens, 5, SamplingOptions(logit_bias={40: 1.0}))
