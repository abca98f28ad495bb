"""Refinement under the whole Hessian against brute force: every single code, least squares in full, and losses that only fall."""

import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.group_scales import GroupScales
from kbit.encoders.nearest import encode
from kbit.encoders.refine import Chosen, refine
from kbit.tensor.blocks import BlockLayout


def problem(rows: int = 20, cols: int = 72, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(300, cols)) @ (draw.normal(size=(cols, cols)) * np.exp(draw.normal(size=cols)))
    return draw.normal(size=(rows, cols)).astype(np.float32), (inputs.T @ inputs).astype(np.float32)


def start(weights: np.ndarray, hessian: np.ndarray, text: str) -> tuple[Chosen, np.ndarray]:
    first = encode(weights, Scheme.parse(text))
    size = BlockLayout.of(first.scheme, *first.shape).group_size
    return Chosen(weights, hessian, first.codes(), GroupScales(first), size, True), first.levels


def decoded(chosen: Chosen, levels: np.ndarray) -> np.ndarray:
    scale, zero = chosen.scales.value[:, chosen.group], chosen.scales.zero[:, chosen.group]
    return ((levels[chosen.codes] - zero) * scale).astype(np.float64)


def losses(chosen: Chosen, levels: np.ndarray) -> np.ndarray:
    error = chosen.weights - decoded(chosen, levels)
    return np.einsum("ri,ij,rj->r", error, chosen.hessian.astype(np.float64), error)


@pytest.mark.parametrize("text", ["int3:g16", "int2:g32:asym", "nf3:g-1", "float4:g32:e4m3", "log3:g16:dq8"])
def test_a_sweep_of_codes_is_every_level_tried_in_turn(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, hessian = problem(rows=7)
    chosen, levels = start(weights, hessian, text)
    expected = chosen.codes.copy()
    h, scale, zero = chosen.hessian.astype(np.float64), chosen.scales.value[:, chosen.group], chosen.scales.zero[:, chosen.group]
    for r in range(len(weights)):
        for j in range(weights.shape[1]):
            trials = np.repeat(expected[r][None], levels.size, 0)
            trials[:, j] = np.arange(levels.size)
            error = weights[r] - (levels[trials] - zero[r]) * scale[r].astype(np.float64)
            expected[r, j] = np.argmin(np.einsum("ti,ij,tj->t", error, h, error))
    monkeypatch.setattr("kbit.encoders.refine._fit_scales", lambda *_: None)
    refine([chosen], levels, fit_levels=False, rounds=1)
    assert (chosen.codes != start(weights, hessian, text)[0].codes).any()
    assert (chosen.codes != expected).mean() < 0.002  # a tie of float32


@pytest.mark.parametrize("text", ["int3:g16", "int2:g32:asym", "nf3:g-1"])
def test_scales_are_least_squares_rounded(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, hessian = problem(rows=9)
    chosen, levels = start(weights, hessian, text)
    root = np.linalg.cholesky(chosen.hessian.astype(np.float64))
    expected = np.empty(chosen.scales.value.shape)
    for r in range(len(weights)):
        unit = (levels[chosen.codes[r]] - chosen.scales.zero[r, chosen.group]).astype(np.float64)
        design = np.stack([np.where(chosen.group == g, unit, 0) @ root for g in range(expected.shape[1])], 1)
        expected[r] = np.linalg.lstsq(design, weights[r] @ root, rcond=None)[0]
    monkeypatch.setattr("kbit.encoders.refine.sweep_codes", lambda *_: None)
    refine([chosen], levels, fit_levels=False, rounds=1)
    np.testing.assert_allclose(chosen.scales.value, expected, rtol=2e-3)


def test_levels_are_least_squares_over_all_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [problem(rows=11, seed=seed) for seed in (1, 2)]
    both = [start(*pair, "kmeans2:g16") for pair in pairs]
    levels = both[0][1]
    matrices = [chosen for chosen, _ in both]
    design, aim = [], []
    for chosen in matrices:
        root = np.linalg.cholesky(chosen.hessian.astype(np.float64))
        scale = chosen.scales.value[:, chosen.group].astype(np.float64)
        design.append(np.stack([((chosen.codes == code) * scale) @ root for code in range(4)], -1).reshape(-1, 4))
        aim.append((chosen.weights @ root).ravel())
    expected = np.linalg.lstsq(np.concatenate(design), np.concatenate(aim), rcond=None)[0]
    monkeypatch.setattr("kbit.encoders.refine.sweep_codes", lambda *_: None)
    monkeypatch.setattr("kbit.encoders.refine._fit_scales", lambda *_: None)
    np.testing.assert_allclose(refine(matrices, levels, fit_levels=True, rounds=1), np.sort(expected), rtol=1e-3)


@pytest.mark.parametrize("text", ["int2:g16", "int3:g32:asym", "kmeans3:g16", "nf4:g32:e4m3", "int3:g16:dq8", "quantile3:g-1"])
def test_no_round_raises_the_loss(text: str) -> None:
    weights, hessian = problem(rows=24, cols=160, seed=5)
    chosen, levels = start(weights, hessian, text)
    before = losses(chosen, levels)
    for _ in range(4):
        levels = refine([chosen], levels, fit_levels="kmeans" in text, rounds=1)
        after = losses(chosen, levels)
        assert after.sum() <= before.sum() * (1 + 1e-5)
        before = after


@pytest.mark.parametrize("text", ["int2:g32+gptq", "kmeans2:g32+imp+gptq", "nf3:g32:e4m3+gptq", "int3:g32:asym+actorder+gptq"])
def test_gptq_with_refinement_loses_less(text: str) -> None:
    weights, hessian = problem(rows=48, cols=160, seed=1)
    scheme = Scheme.parse(text)

    def loss(rounds: int) -> float:
        quantized = encode_gptq(weights, scheme, hessian, rounds=rounds)
        quantized.validate()
        error = (weights - quantized.dequantize()).astype(np.float64)
        return float(np.einsum("ri,ij,rj->", error, hessian.astype(np.float64), error))

    assert loss(3) < 0.95 * loss(0)


def test_a_matrix_that_saw_nothing_keeps_its_scales_and_follows_the_levels() -> None:
    weights, hessian = problem(seed=1)
    stack = np.stack([weights, weights * 2])
    scheme = Scheme.parse("kmeans3:g16+gptq")
    quantized = encode_gptq(stack, scheme, np.stack([hessian, np.zeros_like(hessian)]))
    quantized.validate()
    blind = quantized.matrices()[1]
    plain = encode(stack, Scheme.parse("kmeans3:g16")).matrices()[1]
    assert np.array_equal(blind.scale, plain.scale)
    given = encode(weights * 2, Scheme.parse("kmeans3:g16"), levels=quantized.levels)
    error = weights * 2 - blind.dequantize()
    assert float((error**2).mean()) < 1.5 * float(((weights * 2 - given.dequantize()) ** 2).mean())
