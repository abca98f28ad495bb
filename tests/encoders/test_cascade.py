"""Cascades against brute force: joint codes, scales, what GPTQ makes of them, and levels one after another."""

import itertools

import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.hessian import damped
from kbit.encoders.joint import joint_levels, level_codes, nearest_joint, search_scales
from kbit.grids import levels_for
from kbit.tensor.blocks import rows_of_tiles
from kbit.tensor.nested import first_bits
from kbit.tensor.quantized import QuantizedTensor
from kbit.tensor.scales import scale_values

from .test_gptq import output_error, problem

INT2 = np.array([-2, -1, 0, 1], np.float32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error(weights: np.ndarray, value: QuantizedTensor) -> float:
    return float(np.square(weights - value.dequantize()).mean())


def amounts(value: QuantizedTensor) -> np.ndarray:
    """All that each weight of a matrix could amount to under its scales, [rows, cols, n]."""
    rows, cols = value.shape
    size = cols if value.scheme.group_size == -1 else value.scheme.group_size
    choices = []
    for level in (value, *value.residual_levels()):
        scale = np.repeat(rows_of_tiles(scale_values(level), rows), size, axis=1)[:, :cols]
        choices.append(scale[..., None] * level.levels)
    return np.stack([sum(combination) for combination in itertools.product(*(np.moveaxis(one, 2, 0) for one in choices))], axis=2)


# ---- joint codes


def test_joint_codes_are_a_code_of_each_level() -> None:
    levels = [INT2, np.array([-1, 0.5], np.float32), np.array([0, 1, 7], np.float32)]
    joint = joint_levels(levels)
    codes = np.arange(len(joint), dtype=np.uint8)
    assert np.array_equal(np.stack([one[code] for one, code in zip(levels, level_codes(codes, levels), strict=True)], axis=1), joint)


@pytest.mark.parametrize("shape", [(7,), (7, 33)])
def test_nearest_joint_codes(shape: tuple[int, ...]) -> None:
    joint, value, target = joint_levels([INT2, INT2]), normal(7, 2, seed=1), normal(*shape, seed=2)
    codes, found = nearest_joint(target, value, joint)
    choices = value @ joint.T
    wide = target.reshape(7, -1)
    assert np.allclose(np.abs(found - target).reshape(7, -1), np.abs(wide[..., None] - choices[:, None]).min(-1), atol=1e-6)
    assert np.allclose(np.take_along_axis(choices, codes.reshape(7, -1).astype(int), 1).reshape(shape), found, atol=1e-6)


@pytest.mark.parametrize("weighed", [False, True])
def test_scales_are_near_the_best_pair(weighed: bool) -> None:
    weights = normal(6, 32, seed=3)
    importance = np.random.default_rng(0).random((6, 32)).astype(np.float32) if weighed else None
    spread = np.ones((6, 32)) if importance is None else importance

    def losses(value: np.ndarray) -> np.ndarray:
        return (spread * np.square(weights - nearest_joint(weights, value.astype(np.float32), joint_levels([INT2, INT2]))[1])).sum(1)

    found = losses(search_scales(weights, 32, [INT2, INT2], importance)[:, 0])
    grid = [losses(np.tile([a, b], (6, 1))) for a in np.linspace(-2, 2, 81) for b in np.linspace(-1, 1, 81)]
    assert (found <= 1.1 * np.min(grid, axis=0)).all()


# ---- nearest


@pytest.mark.parametrize(
    "text",
    ["int2:g16+residual2", "nf3:g-1+residual2", "kmeans2:g32+residual1-1", "log4+residual2", "dynamic2:g16+residual3", "float3+residual2"],
)
def test_codes_are_the_nearest_sums(text: str) -> None:
    weights = normal(33, 80)
    value = encode(weights, Scheme.parse(text))
    value.validate()
    best = np.abs(amounts(value) - weights[..., None]).min(-1)
    np.testing.assert_allclose(np.abs(value.dequantize() - weights), best, atol=1e-5)


def test_levels_together_lose_less_than_one_after_another() -> None:
    weights = normal(64, 128)
    for grid in ("int", "nf", "kmeans"):
        together, apart, alone = (encode(weights, Scheme.parse(f"{grid}2:g64:mse{part}")) for part in ("+residual2", "+successive2", ""))
        assert error(weights, together) < error(weights, apart) < 0.4 * error(weights, alone)
    assert error(weights, encode(weights, Scheme.parse("int2:g64+residual2-1"))) < 0.4 * error(
        weights, encode(weights, Scheme.parse("int2:g64+residual2"))
    )


def test_each_level_of_a_successive_cascade_is_the_nearest_of_what_is_left() -> None:
    weights = normal(40, 64)
    value = encode(weights, Scheme.parse("nf2:g16:mse+successive2-1"))
    left = weights
    for level, text in zip((first_bits(value, 2), *value.residual_levels()), ("nf2:g16:mse", "nf2:g16:mse", "nf1:g16:mse"), strict=True):
        expected = encode(left, Scheme.parse(text))
        assert level.dequantize().tobytes() == expected.dequantize().tobytes()
        left = left - expected.dequantize()


def test_importance_moves_the_error() -> None:
    weights, importance = normal(32, 64), np.ones(64, np.float32)
    importance[::4] = 100
    plain, weighed = (encode(weights, Scheme.parse(f"int2:g64{m}+residual2"), importance=importance if m else None) for m in ("", "+imp"))
    cost = [float((importance * np.square(weights - one.dequantize())).sum()) for one in (plain, weighed)]
    assert cost[1] < cost[0]


@pytest.mark.parametrize(
    "weights", [np.zeros((17, 40), np.float32), np.full((17, 40), 3, np.float32), np.full((17, 40), 60000, np.float32)]
)
@pytest.mark.parametrize("text", ["int2:g16+residual2", "kmeans2:g16+residual2", "nf2:g16+successive2", "quantile1:g-1+residual1"])
def test_dull_weights(weights: np.ndarray, text: str) -> None:
    value = encode(weights, Scheme.parse(text))
    value.validate()
    assert np.abs(value.dequantize() - weights).max() <= 0.2 * np.abs(weights).max()


# ---- GPTQ


@pytest.mark.parametrize("text", ["int2:g32+imp+gptq+residual2", "kmeans2:g32+gptq+residual1", "nf1:g-1+gptq+residual1-1"])
def test_no_code_of_gptq_can_be_improved_alone(text: str) -> None:
    weights, hessian = problem(rows=20, cols=64)
    value = encode_gptq(weights, Scheme.parse(text), hessian, rounds=12)
    value.validate()
    metric, choices, found = damped(hessian).astype(np.float64), amounts(value).astype(np.float64), value.dequantize().astype(np.float64)
    pull = (weights - found) @ metric
    own = np.diagonal(metric)
    step = choices - found[..., None]
    gain = 2 * step * pull[..., None] - np.square(step) * own[:, None]  # what another code for this weight alone would win
    scale = np.einsum("ij,jk,ik->i", weights - found, metric, weights - found)
    assert (gain.max(axis=2) > 1e-3 * scale[:, None]).mean() < 0.02


@pytest.mark.parametrize("grid", ["int", "nf", "kmeans"])
def test_gptq_loses_less_than_the_nearest_and_than_levels_apart(grid: str) -> None:
    weights, hessian = problem(rows=48, cols=96, seed=5)
    loss = {
        name: output_error(weights, one.dequantize(), hessian)
        for name, one in {
            "nearest": encode(weights, Scheme.parse(f"{grid}2:g32+residual2")),
            "joint": encode_gptq(weights, Scheme.parse(f"{grid}2:g32+gptq+residual2"), hessian),
            "apart": encode_gptq(weights, Scheme.parse(f"{grid}2:g32+gptq+successive2"), hessian),
            "first": encode_gptq(weights, Scheme.parse(f"{grid}2:g32+gptq"), hessian),
        }.items()
    }
    assert loss["joint"] < min(loss["nearest"], loss["apart"])
    assert loss["apart"] < 0.5 * loss["first"]


def test_the_first_level_of_a_successive_cascade_is_that_of_the_scheme_without_it() -> None:
    weights, hessian = problem(rows=24, cols=64)
    for text in ("kmeans2:g32+imp+gptq", "int2:g16+actorder+gptq"):
        value = encode_gptq(weights, Scheme.parse(f"{text}+successive2-1"), hessian)
        assert first_bits(value, 2).scheme == Scheme.parse(text)
        assert first_bits(value, 2).dequantize().tobytes() == encode_gptq(weights, Scheme.parse(text), hessian).dequantize().tobytes()
        sums = [output_error(weights, first_bits(value, bits).dequantize(), hessian) for bits in (2, 4, 5)]
        assert sums[0] > 2 * sums[1] > 2 * sums[2]


def test_what_was_never_seen_gets_the_nearest_codes() -> None:
    weights = normal(20, 64)
    value = encode_gptq(weights, Scheme.parse("int2:g32+gptq+residual2"), np.zeros((64, 64), np.float32))
    assert error(weights, value) == pytest.approx(error(weights, encode(weights, Scheme.parse("int2:g32+residual2"))), rel=0.02)


def test_a_stack_is_encoded_matrix_by_matrix() -> None:
    weights, hessian = problem(rows=20, cols=64)
    both = encode_gptq(np.stack([weights, 2 * weights]), Scheme.parse("int2:g32+gptq+residual2"), np.stack([hessian, hessian]))
    both.validate()
    assert np.array_equal(both.dequantize()[0], encode_gptq(weights, Scheme.parse("int2:g32+gptq+residual2"), hessian).dequantize())


@pytest.mark.parametrize("method", ["", "+gptq"])
def test_outliers_and_low_rank_beside_the_levels(method: str) -> None:
    weights, hessian = problem(rows=32, cols=64)
    weights[3, 5], weights[9, 60] = 30, -40

    def lost(part: str) -> float:
        scheme = Scheme.parse(f"int2:g32{method}+residual2{part}")
        value = encode_gptq(weights, scheme, hessian) if method else encode(weights, scheme)
        value.validate()
        return output_error(weights, value.dequantize(), hessian) if method else error(weights, value)

    assert lost("+outlier0.5") < 0.9 * lost("")
    assert lost("+lowrank4") < lost("")


def test_rotated_weights_are_encoded_as_they_are_rotated() -> None:
    weights, hessian = problem(rows=32, cols=64)
    value = encode_gptq(weights, Scheme.parse("int2:g32+rotate+gptq+residual2"), hessian)
    assert output_error(weights, value.dequantize(), hessian) < output_error(
        weights, encode(weights, Scheme.parse("int2:g32+rotate+residual2")).dequantize(), hessian
    )


def test_fixed_levels_stay() -> None:
    value = encode(normal(16, 32), Scheme.parse("nf3:g16+residual1"))
    assert np.array_equal(value.levels, levels_for(Scheme.parse("nf3")))
