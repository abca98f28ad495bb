"""Formulas of the reference against torch's and transformers'."""

import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN
from transformers.models.bloom.modeling_bloom import _get_alibi_slopes
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.t5.modeling_t5 import T5Attention

from kbit.engine.architectures.settings import ACTIVATIONS as NAMES
from kbit.engine.arithmetic import ACTIVATIONS, alibi_slopes, normalize, relative_buckets, rotate, route, softcap, softmax, waves
from kbit.engine.ops import Norm, Rotary

X = np.linspace(-12, 12, 2001, dtype=np.float32).reshape(3, -1)


@pytest.mark.parametrize("name", NAMES)
def test_activations(name: str) -> None:
    y = ACTIVATIONS[NAMES[name]](X)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, ACT2FN[name](torch.from_numpy(X)).numpy(), rtol=1e-5, atol=2e-6)


def test_no_activation() -> None:
    np.testing.assert_array_equal(ACTIVATIONS["none"](X), X)


def test_silu_of_large_numbers_is_finite() -> None:
    np.testing.assert_allclose(ACTIVATIONS["silu"](np.array([[-1e4, 1e4]], np.float32)), [[0, 1e4]], atol=1e-20)


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 13, 16, 71])
def test_alibi_slopes(heads: int) -> None:
    np.testing.assert_allclose(alibi_slopes(heads), _get_alibi_slopes(heads, torch.device("cpu")).numpy(), rtol=1e-6)


@pytest.mark.parametrize(("interleaved", "module"), [(False, modeling_llama), (True, modeling_cohere)])
def test_rotations(interleaved: bool, module: object) -> None:
    frequencies = (1.0, 0.3, 0.04)
    x, positions = np.random.default_rng(0).standard_normal((5, 2, 6)).astype(np.float32), np.array([0, 1, 7, 40, 3])
    angles = torch.from_numpy(positions[:, None] * np.array(frequencies)).float()
    angles = angles.repeat_interleave(2, dim=-1) if interleaved else torch.cat([angles, angles], dim=-1)
    q = torch.from_numpy(x).transpose(0, 1)[None]
    expected = module.apply_rotary_pos_emb(q, q, angles.cos()[None] * 1.25, angles.sin()[None] * 1.25)[0]  # type: ignore[attr-defined]
    got = rotate(x, positions, Rotary(frequencies, interleaved, 1.25))
    np.testing.assert_allclose(got, expected[0].transpose(0, 1).numpy(), atol=1e-6)


def test_dimensions_beyond_the_frequencies_stay() -> None:
    x = np.random.default_rng(0).standard_normal((2, 1, 6)).astype(np.float32)
    got = rotate(x, np.array([5, 9]), Rotary((0.5,)))
    np.testing.assert_array_equal(got[..., 2:], x[..., 2:])
    assert not np.isclose(got[..., :2], x[..., :2]).any()


def test_norms() -> None:
    x, rng = torch.from_numpy(X), np.random.default_rng(1)
    weight, bias = (rng.standard_normal(X.shape[1]).astype(np.float32) for _ in range(2))
    layer = torch.nn.functional.layer_norm(x, x.shape[1:], torch.from_numpy(weight), torch.from_numpy(bias), 1e-3)
    np.testing.assert_allclose(normalize(X, Norm("layer", "w", "b", 1e-3), weight, bias), layer.numpy(), atol=1e-5)
    rms = torch.nn.functional.rms_norm(x, x.shape[1:], torch.from_numpy(weight), 1e-3)
    np.testing.assert_allclose(normalize(X, Norm("rms", "w", None, 1e-3), weight, None), rms.numpy(), atol=1e-5)
    plain = torch.nn.functional.rms_norm(x, x.shape[1:], None, 1e-3)
    np.testing.assert_allclose(normalize(X, Norm("rms", None, None, 1e-3), None, None), plain.numpy(), atol=1e-5)
    np.testing.assert_allclose(normalize(X, Norm("rms", "w", None, 1e-3, plus_one=True), weight - 1, None), rms.numpy(), atol=1e-5)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (8, 12), (4, 20), (64, 1000)])
def test_buckets_of_distances(both_ways: bool, buckets: int, longest: int) -> None:
    distance = np.arange(-2 * longest, 2 * longest + 1)
    expected = T5Attention._relative_position_bucket(torch.from_numpy(distance), both_ways, buckets, longest)
    np.testing.assert_array_equal(relative_buckets(distance, buckets, longest, both_ways=both_ways), expected.numpy())


def test_waves_are_sines_then_cosines() -> None:
    table = MarianSinusoidalPositionalEmbedding(50, 12).create_weight().numpy()
    frequencies = tuple(10_000.0 ** (-2 * i / 12) for i in range(6))
    np.testing.assert_allclose(waves(np.arange(50), frequencies), table, atol=1e-7)


def test_softcap() -> None:
    np.testing.assert_array_equal(softcap(X, None), X)
    np.testing.assert_allclose(softcap(X, 3.0), 3 * np.tanh(X / 3), rtol=1e-5)


def test_softmax_leaves_nothing_for_what_is_hidden() -> None:
    probabilities = softmax(np.array([[1000.0, 999.0, -np.inf]], np.float32))
    np.testing.assert_allclose(probabilities, [[0.7310586, 0.2689414, 0]], rtol=1e-6)


def test_routing_takes_the_likeliest_and_of_equals_the_first() -> None:
    logits = np.array([[0, 2, 2, 1], [3, 0, 0, 0]], np.float32)
    chosen, weights = route(logits, 2, normalize=False)
    np.testing.assert_array_equal(chosen, [[1, 2], [0, 1]])
    np.testing.assert_allclose(weights, np.take_along_axis(softmax(logits), chosen, 1))
    _, normalized = route(logits, 2, normalize=True)
    np.testing.assert_allclose(normalized.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(normalized[0], [0.5, 0.5], rtol=1e-6)
