"""GPTQ over vectors against brute force with an explicit inverse of what is left of the Hessian, and what it gains."""

import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.vector_nearest import encode_groups
from kbit.encoders.vector_refit import refit_codebook
from kbit.encoders.vectors import VectorGroups
from kbit.tensor.blocks import rows_of_tiles
from kbit.tensor.scales import decode_scale, scale_values

METHODS = ["+gptq", "+imp+gptq", "+actorder+gptq", "+imp+actorder+gptq"]


def problem(rows: int, cols: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the Hessian of correlated inputs of different sizes."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(3 * cols, cols)) @ (draw.normal(size=(cols, cols)) * np.exp(0.5 * draw.normal(size=cols)))
    return draw.normal(size=(rows, cols)).astype(np.float32), (inputs.T @ inputs).astype(np.float32)


def output_error(weights: np.ndarray, decoded: np.ndarray, hessian: np.ndarray) -> float:
    error = (weights - decoded).astype(np.float64)
    return float(np.einsum("ri,ij,rj->", error, hessian.astype(np.float64), error))


def brute_force(weights: np.ndarray, hessian: np.ndarray, scheme: Scheme, codebook: np.ndarray) -> np.ndarray:
    """Decoded weights when each vector takes the entry that costs least, and later weights then move to where they cost least."""
    rows, cols = weights.shape
    dims, width = scheme.dims, cols if scheme.group_size == -1 else scheme.group_size
    diagonal = np.diagonal(hessian).astype(np.float64)
    importance = (diagonal / diagonal.mean()).astype(np.float32) if "imp" in scheme.methods else None
    plain = Scheme.parse(scheme.text.split("+")[0] + (":mse" if importance is not None else ""))
    first = encode(weights, plain, importance=importance, levels=codebook if scheme.grid == "vq" else None)
    scale = rows_of_tiles(scale_values(first), rows).astype(np.float64)
    static = "actorder" in scheme.methods or plain.scale_dtype == "dq8"
    vectors = [list(range(begin, min(begin + dims, cols))) for begin in range(0, cols, dims)]
    if "actorder" in scheme.methods:
        vectors.sort(key=lambda vector: (len(vector) < dims, -diagonal[vector].astype(np.float32).sum(), vector))
    left = [column for vector in vectors for column in vector]
    h = hessian.astype(np.float64) + 0.01 * diagonal.mean() * np.eye(cols)
    w = weights.astype(np.float64)
    for vector in vectors:
        group = vector[0] // width
        if not static and vector[0] % width == 0:
            span = slice(group * width, min((group + 1) * width, cols))
            scale[:, group] = scales_of(w[:, span], plain, first, None if importance is None else importance[span])
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        at = [left.index(column) for column in vector]
        cost = np.linalg.inv(inverse[np.ix_(at, at)])  # of the vector's error, all that is left making up for it
        for row in range(rows):
            choices = scale[row, group] * codebook[:, : len(vector)].astype(np.float64)
            errors = w[row, vector] - choices
            chosen = int(np.argmin(np.einsum("ni,ij,nj->n", errors, cost, errors)))
            w[row, left] -= errors[chosen] @ cost @ inverse[at]
            w[row, vector] = choices[chosen]
        left = [column for column in left if column not in vector]
    return w


def scales_of(columns: np.ndarray, plain: Scheme, first, importance) -> np.ndarray:
    groups = VectorGroups.of(columns.astype(np.float32), importance, columns.shape[1], plain.dims)
    unit = 0.0 if first.super_scale is None else float(first.super_scale[0])
    _, encoded = encode_groups(groups, plain, first.levels, len(columns), unit)
    return rows_of_tiles(decode_scale(encoded.scale, first.super_scale, plain.scale_dtype), len(columns))[:, 0].astype(np.float64)


@pytest.mark.parametrize("methods", METHODS)
@pytest.mark.parametrize(("head", "cols"), [("nvq2d3:g96", 113), ("nvq2d2:g64", 71), ("nvq3d2:g-1:e4m3", 37), ("nvq1d3:g96:dq8", 100)])
def test_every_option_and_method_is_what_brute_force_says(head: str, cols: int, methods: str) -> None:
    weights, hessian = problem(5, cols, seed=cols)
    scheme = Scheme.parse(head + methods)
    found = encode_gptq(weights, scheme, hessian, block=10)
    np.testing.assert_allclose(found.dequantize(), brute_force(weights, hessian, scheme, found.levels), rtol=2e-6, atol=1e-6)


def test_a_stack_is_its_matrices_with_one_codebook() -> None:
    weights, hessian = problem(20, 96)
    stack, hessians = np.stack([weights, weights[::-1]]), np.stack([hessian, hessian])
    found = encode_gptq(stack, Scheme.parse("vq2d3:g96+imp+gptq"), hessians)
    found.validate()
    assert found.codebook is not None
    assert found.codebook.shape == (64, 3)
    one, other = found.dequantize()
    assert np.array_equal(one, other[::-1])


@pytest.mark.parametrize("methods", METHODS)
@pytest.mark.parametrize("head", ["vq2d3:g96", "vq2d2:g64", "vq2.5d2:g64", "nvq3d2:g64"])
def test_the_output_loses_less_than_by_the_nearest(head: str, methods: str) -> None:
    weights, hessian = problem(48, 192, seed=1)
    plain = encode(weights, Scheme.parse(head + (":mse" if "imp" in methods else "")))
    better = encode_gptq(weights, Scheme.parse(head + methods), hessian)
    assert output_error(weights, better.dequantize(), hessian) < 0.8 * output_error(weights, plain.dequantize(), hessian)


def test_a_refitted_codebook_is_the_best_for_its_codes() -> None:
    weights, hessian = problem(24, 31, seed=4)
    codes = np.random.default_rng(0).integers(0, 4, (24, 16), np.uint8)
    scale = np.exp(np.random.default_rng(1).normal(size=(24, 31))).astype(np.float32)

    def loss(codebook: np.ndarray) -> float:
        return output_error(weights, scale * codebook[codes].reshape(24, -1)[:, :31], hessian)

    found = refit_codebook(weights, codes, scale, hessian, np.zeros((4, 2), np.float32))
    columns = [
        np.where((np.repeat(codes, 2, axis=1)[:, :31] == e) & (np.arange(31) % 2 == c), scale, 0) for e in range(4) for c in range(2)
    ]
    gram = np.array([[np.einsum("ri,ij,rj->", a, hessian.astype(np.float64), b) for b in columns] for a in columns])
    moment = np.array([np.einsum("ri,ij,rj->", a, hessian.astype(np.float64), weights) for a in columns])
    best = np.linalg.solve(gram, moment).reshape(4, 2)
    np.testing.assert_allclose(found, best, rtol=1e-2, atol=1e-3)
    assert loss(found) <= 1.0001 * loss(best)


def test_the_codebook_is_fitted_again_to_what_gptq_chose() -> None:
    weights, hessian = problem(96, 192, seed=6)
    scheme = Scheme.parse("vq2d3:g96+imp+gptq")
    refitted = encode_gptq(weights, scheme, hessian)
    kept = encode_gptq(np.stack([weights] * 2), scheme, np.stack([hessian] * 2))  # matrices of a stack share one codebook
    assert not np.array_equal(refitted.levels, kept.levels)
    assert output_error(weights, refitted.dequantize(), hessian) < output_error(weights, kept.dequantize()[0], hessian)


def test_blocks_change_rounding_only() -> None:
    weights, hessian = problem(32, 192, seed=2)
    scheme = Scheme.parse("nvq2d3:g96+gptq")
    one, other = (encode_gptq(weights, scheme, hessian, block=block) for block in (3, 128))
    assert np.mean(one.codes() != other.codes()) < 0.01


def test_a_hessian_of_zeros_is_nearest_encoding() -> None:
    weights, _ = problem(20, 96)
    found = encode_gptq(weights, Scheme.parse("nvq2d3:g96+imp+gptq"), np.zeros((96, 96), np.float32))
    assert np.array_equal(found.codes(), encode(weights, Scheme.parse("nvq2d3:g96:mse")).codes())
