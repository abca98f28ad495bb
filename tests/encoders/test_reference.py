"""The oracle itself, against brute force and known cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.scheme import Scheme
from kbit.encoders.reference import nearest_codes, reference_encode
from kbit.grids import levels_for

ZERO = np.zeros(1, np.float32)


def test_codes_are_nearest_with_ties_to_the_lower():
    levels = np.array([-2, 0, 1, 4], np.float32)
    weights = np.array([-9, -1.01, -1, -0.99, 0.5, 0.51, 2.5, 2.6, 9], np.float32)
    assert nearest_codes(weights, np.ones(1, np.float32), ZERO, levels).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert nearest_codes(-weights, -np.ones(1, np.float32), ZERO, levels).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_a_zero_scale_takes_the_level_nearest_to_zero():
    weights = np.array([-1, 0, 3e38], np.float32)
    assert nearest_codes(weights, ZERO, ZERO, np.array([-1, 0.25, 1], np.float32)).tolist() == [1, 1, 1]
    assert nearest_codes(weights, ZERO, ZERO, np.array([-1, 1], np.float32)).tolist() == [0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=9, unique=True), st.floats(-10, 10, width=32), st.floats(0.125, 8, width=32)
)
def test_codes_against_brute_force(levels, weight, scale):
    levels = np.sort(np.array(levels, np.float32))
    code = int(nearest_codes(np.array([weight], np.float32), np.array([scale], np.float32), ZERO, levels)[0])
    distance = np.abs(float(weight) - np.float64(scale) * levels.astype(np.float64))
    assert distance[code] <= distance.min() + 1e-6 * (abs(weight) + abs(scale) * 4)


def test_integers_on_their_own_grid_are_exact():
    weights = np.arange(-8, 8, dtype=np.float32)[None]
    value = reference_encode(weights, Scheme.parse("int4:g16"), levels_for(Scheme.parse("int4")))
    assert value.codes().tolist() == [list(range(16))]
    assert np.array_equal(value.dequantize(), weights)
    flipped = reference_encode(-weights, Scheme.parse("int4:g16"), levels_for(Scheme.parse("int4")))
    assert flipped.scale.view(np.float16)[0, 0, 0] == -1
    assert np.array_equal(flipped.dequantize(), -weights)


def test_asymmetric_ranges_hold_zero():
    levels = levels_for(Scheme.parse("int2:asym"))
    for row, scale, zero in [([0, 1, 2, 3], 1, 0), ([-3, -2, -1, 0], 1, 3), ([-1, 0, 1, 2], 1, 1), ([6, 6, 6, 6], 2, 0)]:
        value = reference_encode(np.array([row * 4], np.float32), Scheme.parse("int2:g16:asym"), levels)
        assert value.scale.view(np.float16)[0, 0, 0] == scale
        assert value.zero_point[0, 0, 0] == zero
        assert value.dequantize()[0, :4].tolist() == row


@pytest.mark.parametrize("text", ["int2:g64:mse", "int3:g64:mse", "nf3:g64:mse", "int2:g64:asym:mse", "float4e2:g32:mse"])
def test_the_search_is_near_the_best_of_a_dense_one(text):
    scheme = Scheme.parse(text)
    levels = levels_for(scheme)
    weights = np.random.default_rng(5).standard_t(5, (8, 128)).astype(np.float32)
    found = np.square(reference_encode(weights, scheme, levels).dequantize() - weights).sum()
    best = 0.0
    for group in weights.reshape(-1, scheme.group_size).astype(np.float64):
        scales = np.linspace(0.02, 2.5, 600) * np.abs(group).max() / np.abs(levels).max()
        scales = scales if not scheme.symmetric else np.concatenate([scales, -scales])
        zeros = np.arange(levels.size) if not scheme.symmetric else np.zeros(1)
        grid = (levels[None, :] - zeros[:, None])[None] * scales[:, None, None]
        errors = np.abs(group[:, None, None, None] - grid[None]).min(-1)
        best += np.square(errors).sum(0).min()
    assert found <= best * 1.03
