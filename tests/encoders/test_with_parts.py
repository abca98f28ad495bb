"""Parts against brute force: which weights are chosen, what GPTQ makes of the rest, and the best low rank."""

import itertools

import numpy as np
import pytest

from kbit.core.errors import NumericsError, SchemeError, ShapeError
from kbit.core.scheme import Scheme
from kbit.encoders import NearestEncoder, encode
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.lowrank import InputMetric, fit_low_rank
from kbit.encoders.outliers import choose_columns, choose_outliers, outlier_parts
from kbit.encoders.prune import least_scores, truncated
from kbit.tensor.blocks import rows_of_tiles
from kbit.tensor.parts import outlier_places
from kbit.tensor.quantized import QuantizedTensor
from kbit.tensor.rotation import restore_rows, rotate_moments, rotate_rows
from kbit.tensor.scales import scale_values

from .test_gptq import output_error, problem


def bare(value: QuantizedTensor) -> np.ndarray:
    """What the codes alone say."""
    text = value.scheme.text.split("+outlier")[0].split("+lowrank")[0]
    kept = {name: part for name, part in value.parts().items() if name not in value.extra or name == "weight_mask"}
    return QuantizedTensor.from_parts(Scheme.parse(text), value.shape, kept).dequantize()


def costs(weights: np.ndarray, importance: np.ndarray, count: int) -> np.ndarray:
    """h e² of each weight of `int3:g16:mse` whose scales do not know the `count` largest of h w²."""
    spread = np.broadcast_to(importance, weights.shape).copy()
    out = np.argsort(-(spread * weights**2).reshape(-1))[:count]
    others, spread.reshape(-1)[out] = weights.copy(), 0
    others.reshape(-1)[out] = 0
    value = encode(others, Scheme.parse("int3:g16:mse"), importance=spread)
    scale = np.repeat(rows_of_tiles(scale_values(value), len(weights)), 16, axis=1)[:, : weights.shape[1]]
    choices = scale[..., None] * value.levels
    return importance * np.abs(weights[..., None] - choices).min(-1).astype(np.float64) ** 2


# ---- outliers


def test_outliers_are_those_whose_errors_cost_most() -> None:
    weights, hessian = problem(rows=33, cols=72)
    importance = np.diagonal(hessian).copy()
    value = encode(weights, Scheme.parse("int3:g16+imp+outlier2"), importance=importance)
    count = round(0.02 * weights.size)
    cost = costs(weights, importance, count)
    best = sorted(np.ndindex(weights.shape), key=lambda at: -cost[at])[:count]
    row, col = outlier_places(value.extra["weight_outlier_count"], value.extra["weight_outlier_place"])
    assert set(zip(row.tolist(), col.tolist(), strict=True)) == set(best)
    assert np.abs(value.dequantize() - weights)[row, col].max() < 2e-3


def test_codes_are_found_without_the_outliers() -> None:
    weights = np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)
    weights[3, 5] = 100
    value = encode(weights, Scheme.parse("int4:g64+outlier0.1"))
    without = weights.copy()
    without[3, 5] = 0
    assert np.array_equal(bare(value), encode(without, Scheme.parse("int4:g64")).dequantize())
    assert value.dequantize()[3, 5] == 100


def test_columns_are_those_whose_errors_cost_most() -> None:
    weights, hessian = problem(rows=20, cols=64)
    importance = np.diagonal(hessian).copy()
    value = encode(weights, Scheme.parse("int3:g16+imp+outliercol5"), importance=importance)
    cost = costs(weights, importance, 3 * 20)
    assert value.extra["weight_column_index"].tolist() == sorted(np.argsort(-cost.sum(0))[:3].tolist())
    assert np.abs(value.dequantize() - weights)[:, value.extra["weight_column_index"]].max() < 2e-3


def test_a_cell_has_at_most_as_many_outliers_as_its_count_can_say() -> None:
    cost = np.ones((32, 48))
    cost[16:32, 16:32] = 9
    chosen = choose_outliers(cost, 300)
    assert chosen.sum() == 300
    assert chosen[16:32, 16:32].sum() == 255
    assert outlier_parts(chosen, cost.astype(np.float32))["weight_outlier_count"].max() == 255
    assert choose_columns(cost, 16).tolist() == list(range(16, 32))


@pytest.mark.parametrize("parts", ["outlier2", "outliercol5", "outlier1+outliercol3"])
def test_gptq_lets_16_bits_make_up_for_earlier_errors(parts: str) -> None:
    weights, hessian = problem(rows=24, cols=96, seed=5)
    plain = encode_gptq(weights, Scheme.parse("int3:g32+gptq"), hessian)
    value = encode_gptq(weights, Scheme.parse(f"int3:g32+gptq+{parts}"), hessian)
    assert output_error(weights, value.dequantize(), hessian) < output_error(weights, plain.dequantize(), hessian)
    exact = bare(value) != value.dequantize()
    assert np.abs(value.dequantize() - weights)[exact].max() > 0.01  # they are moved, not kept


# ---- pruning


@pytest.mark.parametrize("text", ["prune50", "prune30", "prune2:4", "prune3:8", "prune1:5"])
def test_the_least_scores_are_pruned(text: str) -> None:
    score = np.random.default_rng(2).random((7, 23))
    spec = Scheme.parse(f"int8+{text}").spec
    pruned = least_scores(score, spec)
    size = 23 if spec.keep is None else spec.keep[1]
    for row in range(7):
        for begin in range(0, 23, size):
            group = score[row, begin : begin + size]
            keep = spec.kept(23) if spec.keep is None else min(spec.keep[0], group.size)
            assert sorted(np.flatnonzero(~pruned[row, begin : begin + size])) == sorted(np.argsort(-group)[:keep])


def test_runs_of_columns_prune_as_much_as_rows() -> None:
    score, spec = np.random.default_rng(3).random((5, 70)), Scheme.parse("int8+prune33").spec
    pieces = [least_scores(score[:, begin : begin + 16], spec, begin=begin, cols=70) for begin in range(0, 70, 16)]
    assert (~np.concatenate(pieces, axis=1)).sum(axis=1).tolist() == [spec.kept(70)] * 5


@pytest.mark.parametrize("method", ["", "+imp"])
def test_magnitude_and_wanda(method: str) -> None:
    weights, hessian = problem(rows=9, cols=64)
    importance = np.diagonal(hessian).copy()
    value = encode(weights, Scheme.parse(f"int8:g16{method}+prune50"), importance=importance if method else None)
    score = np.abs(weights) * (np.sqrt(importance) if method else 1)
    kept = np.zeros(weights.shape, np.bool_)
    np.put_along_axis(kept, np.argsort(-score, axis=1)[:, :32], True, axis=1)
    assert np.array_equal(value.kept(), kept)
    assert np.abs(value.dequantize() - weights)[kept].max() < 0.05


@pytest.mark.parametrize("text", ["prune50", "prune2:4"])
def test_sparsegpt_is_what_brute_force_says(text: str) -> None:
    weights, hessian = problem(rows=6, cols=48, seed=7)
    scheme = Scheme.parse(f"int8:g16:dq8+gptq+{text}")
    value = encode_gptq(weights, scheme, hessian, block=16, rounds=0)
    diagonal = np.diagonal(hessian)
    means = diagonal.reshape(3, 16).mean(axis=1)
    order = np.array(sorted(range(48), key=lambda j: (-means[j // 16], -diagonal[j])))
    h = (hessian.astype(np.float64) + 0.01 * diagonal.mean() * np.eye(48))[np.ix_(order, order)]
    w, decoded = weights.astype(np.float64)[:, order], value.dequantize()
    kept = np.zeros(w.shape, np.bool_)
    scale = rows_of_tiles(scale_values(value), 6)
    for j, column in enumerate(order):
        if j % 16 == 0:
            left = np.linalg.inv(h[j:, j:])
            factor = np.linalg.cholesky(left).T  # 1 / factor[i, i]² is what pruning column j + i costs once columns before it are settled
            score = (w[:, j : j + 16] / np.diagonal(factor)[:16]) ** 2
            place = np.argsort(order[j : j + 16])
            kept[:, order[j : j + 16][place]] = ~least_scores(score[:, place], scheme.spec, begin=j, cols=48)
        here = kept[:, column]
        target = np.where(here, decoded[:, column], 0)
        choices = scale[:, column // 16, None] * value.levels
        aimed = np.take_along_axis(choices, np.abs(choices - w[:, j, None]).argmin(1)[:, None], 1)[:, 0]
        np.testing.assert_allclose(target[here], aimed[here], rtol=2e-6, atol=1e-6)
        inverse = np.linalg.inv(h[j:, j:])
        w[:, j:] -= np.outer(w[:, j] - target, inverse[0] / inverse[0, 0])
    assert np.array_equal(value.kept(), kept)


def test_pruning_loses_less_the_more_it_knows() -> None:
    weights, hessian = problem(rows=48, cols=128, seed=9)
    importance = np.diagonal(hessian).copy()
    by_magnitude = encode(weights, Scheme.parse("int8:g32+prune50"))
    wanda = encode(weights, Scheme.parse("int8:g32+imp+prune50"), importance=importance)
    sparse = encode_gptq(weights, Scheme.parse("int8:g32+gptq+prune50"), hessian)
    losses = [output_error(weights, value.dequantize(), hessian) for value in (by_magnitude, wanda, sparse)]
    assert losses[1] < 0.8 * losses[0]
    assert losses[2] < losses[1]


# ---- truncation


def test_the_threshold_is_the_largest_that_the_loss_allows() -> None:
    weights, hessian = problem(rows=9, cols=40)
    importance = np.diagonal(hessian).copy()
    gone = truncated(weights, importance, 1.5)
    energy = (weights.astype(np.float64) ** 2) * importance
    limit = 0.015 * energy.sum()
    magnitudes = np.sort(np.abs(weights).reshape(-1))
    best = max(m for m in magnitudes if energy[np.abs(weights) < m].sum() <= limit)
    assert np.array_equal(gone, np.abs(weights) < best)


def test_truncated_weights_are_0_and_keep_their_codes() -> None:
    weights, hessian = problem(rows=33, cols=72)
    scheme = Scheme.parse("int4:g16+gptq+truncate2")
    value = encode_gptq(weights, scheme, hessian)
    gone = truncated(weights, np.diagonal(hessian), 2)
    assert gone.mean() > 0.05
    assert not value.dequantize()[gone].any()
    assert value.bpw == encode_gptq(weights, Scheme.parse("int4:g16+gptq"), hessian).bpw
    with pytest.raises(SchemeError, match="needs a level of 0"):
        encode(weights, Scheme.parse("nf1:g16+truncate1"))


# ---- low rank


def metrics(cols: int) -> list[InputMetric]:
    draw = np.random.default_rng(cols)
    return [
        InputMetric(),
        InputMetric(diagonal=draw.random(cols) + 0.1),
        InputMetric(factor=np.triu(draw.normal(size=(cols, cols))) + 3 * np.eye(cols)),
    ]


@pytest.mark.parametrize(("rows", "cols"), [(30, 20), (20, 30), (16, 16)])
def test_the_low_rank_is_the_best_there_is(rows: int, cols: int) -> None:
    errors = np.random.default_rng(rows).normal(size=(rows, cols))
    for metric, rank in itertools.product(metrics(cols), (1, 4)):
        part = fit_low_rank(errors, rank, metric)
        best = np.square(np.linalg.svd(metric.apply(errors), compute_uv=False)[rank:]).sum()  # Eckart and Young
        assert best <= metric.loss(errors - part.dense()) < 1.002 * best


def test_a_low_rank_of_full_rank_is_the_matrix() -> None:
    errors = np.random.default_rng(0).normal(size=(12, 12))
    assert np.abs(fit_low_rank(errors, 12, InputMetric()).dense() - errors).max() < 0.05
    assert not fit_low_rank(np.zeros((12, 12)), 3, InputMetric()).dense().any()


@pytest.mark.parametrize("methods", ["", "+imp", "+gptq", "+imp+gptq"])
def test_a_low_rank_lowers_the_loss(methods: str) -> None:
    weights, hessian = problem(rows=48, cols=96, seed=11)
    importance = np.diagonal(hessian).copy()
    losses = []
    for part in ("", "+lowrank4", "+lowrank12"):
        scheme = Scheme.parse(f"int2:g32{methods}{part}")
        value = (
            encode_gptq(weights, scheme, hessian)
            if "gptq" in methods
            else encode(weights, scheme, importance=importance if methods else None)
        )
        metric = hessian if methods.endswith("gptq") else np.diag(importance) if methods else np.eye(96)
        losses.append(output_error(weights, value.dequantize(), metric))
    assert losses[2] < 0.9 * losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize("text", ["vq2d2:g64", "vq2d3:g96", "trellis2:g32"])
@pytest.mark.parametrize("methods", ["", "+imp+gptq"])
def test_a_low_rank_goes_with_codes_that_are_chosen_together(text: str, methods: str) -> None:
    weights, hessian = problem(rows=48, cols=96, seed=11)
    found = []
    for part in ("", "+lowrank8"):
        scheme = Scheme.parse(f"{text}{methods}{part}")
        value = encode_gptq(weights, scheme, hessian) if methods else encode(weights, scheme)
        value.validate()
        found.append(output_error(weights, value.dequantize(), hessian if methods else np.eye(96)))
    assert found[1] < 0.9 * found[0]


# ---- rotated inputs


@pytest.mark.parametrize("parts", ["outlier2+outliercol3+lowrank2", "prune50+outlier1", "truncate2"])
@pytest.mark.parametrize("methods", ["", "+imp", "+imp+gptq"])
def test_parts_are_those_of_the_rotated_weights(parts: str, methods: str) -> None:
    weights, hessian = problem(rows=20, cols=96, seed=3)
    scheme, turned = Scheme.parse(f"int4:g32+rotate{methods}+{parts}"), Scheme.parse(f"int4:g32{methods}+{parts}")
    seen = rotate_moments(hessian)
    importance = np.diagonal(seen).copy() if methods else None
    if "gptq" in methods:
        value, expected = encode_gptq(weights, scheme, hessian), encode_gptq(rotate_rows(weights), turned, seen)
    else:
        value, expected = (encode(one, text, importance=importance) for one, text in ((weights, scheme), (rotate_rows(weights), turned)))
    assert value.scheme == scheme
    assert {name: part.tobytes() for name, part in value.parts().items()} == {
        name: part.tobytes() for name, part in expected.parts().items()
    }
    assert np.array_equal(value.dequantize(), restore_rows(expected.dequantize()))


# ---- everything together


@pytest.mark.parametrize("scheme", ["int4:g16:e4m3", "kmeans3:g32", "nf4:g16:dq8", "int3:g-1", "int4:g16:asym", "float4:g32"])
@pytest.mark.parametrize("methods", ["", "+imp", "+imp+gptq"])
def test_every_grid_and_scale_goes_with_parts(scheme: str, methods: str) -> None:
    draw = np.random.default_rng(4)
    weights = draw.normal(size=(2, 33, 72)).astype(np.float32)
    hessian = np.stack([problem(seed=seed)[1] for seed in (1, 2)])
    prune = "" if "asym" in scheme else "+prune60"
    text = Scheme.parse(f"{scheme}{methods}{prune}+outlier1+outliercol2+lowrank3")
    importance = np.stack([np.diagonal(one) for one in hessian])[:, None]
    value = encode_gptq(weights, text, hessian) if "gptq" in methods else encode(weights, text, importance=importance if methods else None)
    value.validate()
    assert value.scheme == text
    assert np.linalg.norm(value.dequantize() - weights) < (0.6 if prune else 0.4) * np.linalg.norm(weights)


@pytest.mark.parametrize(
    "text", ["int4:g16+hqq+outlier1+lowrank2", "nf3:g32+hqq+imp+gptq+prune60+outlier1", "int3:g16+awq+imp+gptq+bias+outlier1"]
)
def test_other_methods_go_with_parts(text: str) -> None:
    weights, hessian = problem(rows=33, cols=72, seed=8)
    scheme = Scheme.parse(text)
    value = encode_gptq(weights, scheme, hessian) if "gptq" in text else encode(weights, scheme)
    value.validate()
    plain = encode(weights, Scheme.parse("int3:g16"))
    metric = hessian if "gptq" in text else np.eye(72)
    assert output_error(weights, value.dequantize(), metric) < output_error(weights, plain.dequantize(), metric)


def test_threads_and_repetition_change_no_byte() -> None:
    weights, hessian = problem(rows=40, cols=96)
    scheme = Scheme.parse("nf3:g32+imp+gptq+outlier1+lowrank4")
    first, *others = [encode_gptq(weights, scheme, hessian, threads=threads).parts() for threads in (1, 3, 1)]
    for other in others:
        assert {name: part.tobytes() for name, part in first.items()} == {name: part.tobytes() for name, part in other.items()}


def test_bad_input_is_answered() -> None:
    weights, hessian = problem(rows=20, cols=72)
    scheme = Scheme.parse("int4:g16+outlier1")
    broken = weights.copy()
    broken[2, 3] = np.nan
    with pytest.raises(NumericsError, match=r"w: expected finite weights, got nan at \[2, 3\]"):
        encode(broken, scheme, name="w")
    with pytest.raises(SchemeError, match="needs a calibration text"):
        encode(weights, Scheme.parse("int4:g16+imp+outlier1"))
    with pytest.raises(SchemeError, match="needs a calibration text"):
        encode(weights, Scheme.parse("int4:g16+gptq+outlier1"))
    with pytest.raises(SchemeError, match="look at the whole tensor"):
        NearestEncoder((20, 72), scheme)
    with pytest.raises(ShapeError, match="Hessian"):
        encode_gptq(weights[None], Scheme.parse("int4:g16+gptq+outlier1"), hessian)
    with pytest.raises(SchemeError, match="an M that divides the group size"):
        encode_gptq(weights, Scheme.parse("int4:g16+gptq+prune3:7"), hessian)
    with pytest.raises(SchemeError, match="levels cannot be given"):
        encode(weights, Scheme.parse("kmeans2:g16+outlier1"), levels=np.array([-1, 1], np.float32))
