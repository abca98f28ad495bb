import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from kbit.core.errors import ModelError
from kbit.evaluate.divergence import compare, compare_all, token_columns
from kbit.evaluate.intervals import Estimate
from kbit.evaluate.logits import ReferenceLogits
from kbit.evaluate.perplexity import perplexity
from kbit.evaluate.windows import TokenizedText, Windows

Build = Callable[..., torch.nn.Module]
Text = Callable[..., TokenizedText]


def by_hand(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    return rel_entr(softmax(z.astype(float), axis=1), softmax(y.astype(float), axis=1)).sum(axis=1)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    change=st.sampled_from([1e-2, 0.3, 3.0, 15.0]),
    shift=st.floats(-50, 50),
)
def test_divergence_is_scipys(seed: int, spread: float, change: float, shift: float) -> None:
    random = np.random.default_rng(seed)
    z = (random.normal(size=(5, 40)) * spread).astype(np.float32)
    y = (z + random.normal(size=z.shape) * change + shift).astype(np.float32)
    targets = random.integers(0, 40, 5)
    ours, theirs, divergence, agreement = token_columns(torch.from_numpy(z), [torch.from_numpy(y)], targets)[0]
    assert ours == pytest.approx(-log_softmax(y.astype(float), axis=1)[np.arange(5), targets], rel=1e-12)
    assert theirs == pytest.approx(-log_softmax(z.astype(float), axis=1)[np.arange(5), targets], rel=1e-12)
    assert divergence == pytest.approx(by_hand(z, y), rel=1e-7, abs=1e-13)
    assert (divergence >= 0).all()
    assert list(agreement) == list(z.argmax(axis=1) == y.argmax(axis=1))


def test_small_divergences_keep_their_digits() -> None:
    """For y = z + ε·v, KL = ε²/2 · var_p(v) + O(ε³); in float32 it would be lost by ε = 1e-4."""
    random = np.random.default_rng(0)
    z, v = random.normal(size=(4, 300)), random.normal(size=(4, 300))
    p = softmax(z, axis=1)
    variance = (p * v**2).sum(axis=1) - (p * v).sum(axis=1) ** 2
    for epsilon in (1e-3, 1e-4, 1e-5):
        divergence = token_columns(torch.from_numpy(z), [torch.from_numpy(z + epsilon * v)], np.zeros(4, dtype=np.int64))[0, 2]
        assert divergence == pytest.approx(epsilon**2 / 2 * variance, rel=2 * epsilon + 1e-15 / epsilon**2)


def test_far_distributions_do_not_overflow() -> None:
    z = np.zeros((2, 10), dtype=np.float32)
    z[0, 0], z[1, 0] = 1000.0, 30.0
    y = np.zeros((2, 10), dtype=np.float32)
    y[0, 1], y[1, 1] = 1000.0, 1e30
    _, _, divergence, agreement = token_columns(torch.from_numpy(z), [torch.from_numpy(y)], np.array([1, 0]))[0]
    expected = (softmax(z.astype(float), axis=1) * (log_softmax(z.astype(float), axis=1) - log_softmax(y.astype(float), axis=1))).sum(
        axis=1
    )
    assert divergence == pytest.approx(expected, rel=1e-12)
    assert not agreement.any()


def test_several_models_in_one_pass(tiny_llama: Build, random_text: Text) -> None:
    windows = Windows(random_text(40), context=8)
    variants = [tiny_llama(seed=seed) for seed in (1, 2)]
    assert compare_all(variants, tiny_llama(), windows) == [compare(variant, tiny_llama(), windows) for variant in variants]


def test_equals_two_models_run_by_hand(tiny_llama: Build, random_text: Text) -> None:
    ours, theirs, text = tiny_llama(seed=1), tiny_llama(seed=0), random_text(73)
    windows = Windows(text, context=12, stride=5)
    result = compare(ours, theirs, windows, batch_size=2)
    divergences, agreements = [], []
    with torch.no_grad():
        for window in windows:
            ids = torch.from_numpy(window.inputs)[None]
            y, z = ours(ids).logits[0, window.first :].numpy(), theirs(ids).logits[0, window.first :].numpy()
            divergences += list(by_hand(z, y))
            agreements += list(z.argmax(axis=1) == y.argmax(axis=1))
    ordered = np.sort(divergences)
    assert ordered.size == windows.protocol.tokens == 72
    d = result.divergence
    assert d.kl_mean.value == pytest.approx(np.mean(divergences), rel=1e-4)
    assert d.kl_median.value == pytest.approx(ordered[35], rel=1e-4)
    assert d.kl_p99.value == pytest.approx(ordered[71], rel=1e-4)
    assert d.kl_max.value == pytest.approx(ordered[-1], rel=1e-4)
    assert d.top1_agreement.value == pytest.approx(np.mean(agreements))
    assert d.kl_mean.low is not None
    assert d.kl_mean.high is not None
    assert 0 <= d.kl_mean.low < d.kl_mean.value < d.kl_mean.high
    assert result.loss.nats_per_token.value == pytest.approx(perplexity(ours, windows).nats_per_token.value, rel=1e-6)
    assert result.reference.nats_per_token.value == pytest.approx(perplexity(theirs, windows).nats_per_token.value, rel=1e-6)
    assert d.perplexity_ratio.value == pytest.approx(result.loss.perplexity.value / result.reference.perplexity.value)


def test_identical_models_diverge_by_exactly_nothing(tiny_llama: Build, random_text: Text) -> None:
    windows = Windows(random_text(60), context=8)
    model = tiny_llama()
    with ReferenceLogits.compute(tiny_llama(), windows) as kept:
        for reference in (model, tiny_llama(), kept):
            d = compare(model, reference, windows).divergence
            for estimate in (d.kl_mean, d.kl_median, d.kl_p99, d.kl_p999):
                assert estimate == Estimate(0.0, 0.0, 0.0)
            assert d.kl_max == Estimate(0.0)
            assert d.top1_agreement == Estimate(1.0, 1.0, 1.0)
            assert d.perplexity_ratio == Estimate(1.0, 1.0, 1.0)


def test_interval_of_the_ratio_is_paired(tiny_llama: Build, random_text: Text) -> None:
    """A model a hair away from its original is surely no better by a third, though either perplexity alone is that uncertain."""
    model, near = tiny_llama(), tiny_llama()
    with torch.no_grad():
        near.lm_head.weight += 1e-3 * torch.randn(near.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, operator]
    result = compare(near, model, Windows(random_text(161), context=8))
    ratio, alone = result.divergence.perplexity_ratio, result.loss.perplexity
    assert ratio.low is not None
    assert ratio.high is not None
    assert alone.low is not None
    assert alone.high is not None
    assert (ratio.high - ratio.low) / ratio.value < 0.05 * (alone.high - alone.low) / alone.value
    assert ratio.low < 1.0 + 1e-3


def test_models_of_other_vocabularies_are_refused(tiny_llama: Build, random_text: Text) -> None:
    with pytest.raises(ModelError, match="one vocabulary, got 60 and the reference's 50"):
        compare(tiny_llama(vocab_size=60), tiny_llama(), Windows(random_text(20), context=8))


def test_json_has_figures_and_intervals(tiny_llama: Build, random_text: Text) -> None:
    values = compare(tiny_llama(seed=1), tiny_llama(), Windows(random_text(33), context=8)).divergence.to_json()
    assert {"kl_mean", "kl_median", "kl_p99", "kl_p999", "kl_max", "top1_agreement", "perplexity_ratio"} == set(values) - {"intervals"}
    assert values["intervals"]["kl_max"] == [None, None]
    assert all(math.isfinite(value) for key, value in values.items() if key != "intervals")
