"""Holes in GPTQ and in refinement, against brute force: pruned weights stay 0, weights in 16 bits are free coordinates."""

import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.holes import Holes
from kbit.encoders.refine import Chosen, refine

from .test_gptq import output_error
from .test_refine import problem, start


def with_holes(text: str, rows: int = 7, seed: int = 0) -> tuple[Chosen, np.ndarray]:
    """A matrix from nearest codes, a tenth of it in 16 bits and three tenths pruned."""
    weights, hessian = problem(rows=rows, seed=seed)
    chosen, levels = start(weights, hessian, text)
    draw = np.random.default_rng(seed).random(weights.shape)
    chosen.holes = Holes(draw < 0.1, draw > 0.7)
    chosen.holes.total = np.where(chosen.holes.exact, weights, 0).astype(np.float32)
    chosen.holes.total = chosen.amounts(levels)
    return chosen, levels


@pytest.mark.parametrize("text", ["int3:g16", "int2:g32:asym", "nf3:g-1", "float4:g32:e4m3"])
def test_a_sweep_is_every_coordinate_in_turn(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, levels = with_holes(text)
    holes, weights, h = chosen.holes, chosen.weights.astype(np.float64), chosen.hessian.astype(np.float64)
    assert holes is not None
    scale, zero = chosen.scales.value[:, chosen.group].astype(np.float64), chosen.scales.zero[:, chosen.group]
    expected = holes.total.astype(np.float64)
    for r, j in np.ndindex(weights.shape):
        if holes.exact[r, j]:
            error = weights[r] - expected[r]
            error[j] = 0
            expected[r, j] = weights[r, j] + error @ h[:, j] / h[j, j]
        elif not holes.pruned[r, j]:
            trials = np.repeat(expected[r][None], levels.size, 0)
            trials[:, j] = (levels - zero[r, j]) * scale[r, j]
            error = weights[r] - trials
            expected[r, j] = trials[np.argmin(np.einsum("ti,ij,tj->t", error, h, error)), j]
    monkeypatch.setattr("kbit.encoders.refine._fit_scales", lambda *_: None)
    refine([chosen], levels, fit_levels=False, rounds=1)
    assert not holes.total[holes.pruned].any()
    apart = np.abs(holes.total - expected) > 2e-3 * np.abs(expected) + 1e-3
    assert apart.mean() < 0.01  # 16 bits, and ties of float32


@pytest.mark.parametrize("text", ["int3:g16", "int2:g32:asym", "nf3:g-1"])
def test_scales_are_least_squares_of_what_codes_decide(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, levels = with_holes(text, rows=9)
    holes = chosen.holes
    assert holes is not None
    root = np.linalg.cholesky(chosen.hessian.astype(np.float64))
    expected = np.empty(chosen.scales.value.shape)
    for r in range(len(expected)):
        unit = np.where(holes.held[r], 0, (levels[chosen.codes[r]] - chosen.scales.zero[r, chosen.group]).astype(np.float64))
        design = np.stack([np.where(chosen.group == g, unit, 0) @ root for g in range(expected.shape[1])], 1)
        aim = (chosen.weights[r] - np.where(holes.exact[r], holes.total[r], 0)) @ root
        expected[r] = np.linalg.lstsq(design, aim, rcond=None)[0]
    monkeypatch.setattr("kbit.encoders.refine.sweep_codes", lambda *_: None)
    refine([chosen], levels, fit_levels=False, rounds=1)
    np.testing.assert_allclose(chosen.scales.value, expected, rtol=3e-3)


def test_levels_are_least_squares_of_what_codes_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, levels = with_holes("kmeans2:g16", rows=11)
    holes = chosen.holes
    assert holes is not None
    root = np.linalg.cholesky(chosen.hessian.astype(np.float64))
    scale = np.where(holes.held, 0, chosen.scales.value[:, chosen.group].astype(np.float64))
    design = np.stack([((chosen.codes == code) * scale) @ root for code in range(4)], -1).reshape(-1, 4)
    aim = (chosen.weights - np.where(holes.exact, holes.total, 0)) @ root
    expected = np.linalg.lstsq(design, aim.ravel(), rcond=None)[0]
    monkeypatch.setattr("kbit.encoders.refine.sweep_codes", lambda *_: None)
    monkeypatch.setattr("kbit.encoders.refine._fit_scales", lambda *_: None)
    np.testing.assert_allclose(refine([chosen], levels, fit_levels=True, rounds=1), np.sort(expected), rtol=1e-3)


@pytest.mark.parametrize("parts", ["prune50", "prune2:4", "outlier2", "prune60+outlier1+outliercol3"])
@pytest.mark.parametrize("text", ["int4:g16", "kmeans3:g32", "nf4:g32:dq8", "int4:g-1"])
def test_refinement_loses_less_and_leaves_holes_as_they_are(text: str, parts: str) -> None:
    weights, hessian = problem(rows=40, cols=96, seed=2)
    scheme = Scheme.parse(f"{text}+imp+gptq+{parts}")
    before, after = (encode_gptq(weights, scheme, hessian, rounds=rounds) for rounds in (0, 3))
    after.validate()
    assert np.array_equal(before.kept(), after.kept())
    gone = ~before.kept() & (before.dequantize() == 0)
    assert gone.any() == ("prune" in parts)
    assert not after.dequantize()[gone].any()
    assert output_error(weights, after.dequantize(), hessian) < 0.97 * output_error(weights, before.dequantize(), hessian)
