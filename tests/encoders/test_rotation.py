"""Encoders under ``rotate``: the same codes as of weights that were rotated before, and what is decoded is what was given."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from kbit.core.errors import NumericsError
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.nearest import NearestEncoder, Piece, encode_pieces
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.quantized import QuantizedTensor
from kbit.tensor.rotation import reference_rotate, rotate_moments

GRIDS = ["int2:g64", "nf3:g32", "int4:g16:asym", "kmeans3:g64", "quantile4:g64", "float4e2:g32:e4m3", "int3:g64:dq8", "int3:g64:mse"]


def problem(rows: int = 40, cols: int = 192, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(400, cols)) @ (draw.normal(size=(cols, cols)) * np.exp(draw.normal(size=cols)))
    return draw.normal(size=(rows, cols)).astype(np.float32), (inputs.T @ inputs).astype(np.float32)


def same_codes(rotated: QuantizedTensor, plain: QuantizedTensor) -> bool:
    return all(np.array_equal(part, plain.parts()[name]) for name, part in rotated.parts().items())


@pytest.mark.parametrize("text", GRIDS)
def test_codes_are_those_of_rotated_weights(text: str) -> None:
    weights, _ = problem()
    rotated = encode(weights, Scheme.parse(f"{text}+rotate"))
    assert rotated.scheme.text == f"{text}+rotate"
    assert same_codes(rotated, encode(reference_rotate(weights), Scheme.parse(text)))
    error = np.square(rotated.dequantize() - weights).mean()
    plain = np.square(replace(rotated, scheme=Scheme.parse(text)).dequantize() - reference_rotate(weights)).mean()
    np.testing.assert_allclose(error, plain, rtol=1e-4)


@pytest.mark.parametrize("text", ["int3:g64", "kmeans2:g32", "nf3:g64", "int4:g16:asym"])
@pytest.mark.parametrize("methods", ["+gptq", "+imp+gptq", "+imp+actorder+gptq"])
def test_gptq_works_on_rotated_weights_and_moments(text: str, methods: str) -> None:
    weights, hessian = problem()
    rotated = encode_gptq(weights, Scheme.parse(f"{text}+rotate{methods}"), hessian)
    assert same_codes(rotated, encode_gptq(reference_rotate(weights), Scheme.parse(f"{text}{methods}"), rotate_moments(hessian)))
    plain = encode(weights, Scheme.parse(f"{text}+rotate"))
    losses = [
        np.einsum("ri,ij,rj", e, hessian.astype(np.float64), e) for e in (rotated.dequantize() - weights, plain.dequantize() - weights)
    ]
    assert losses[0] < 0.6 * losses[1]


def test_importance_is_of_rotated_inputs() -> None:
    weights, hessian = problem()
    importance = np.diagonal(rotate_moments(hessian)).copy()
    found = encode(weights, Scheme.parse("int3:g64+rotate+imp"), importance=importance)
    assert same_codes(found, encode(reference_rotate(weights), Scheme.parse("int3:g64:mse"), importance=importance))


def test_stacks_and_halves() -> None:
    weights = np.stack([problem(seed=seed)[0] for seed in range(3)]).astype(np.float16)
    stack = encode(weights, Scheme.parse("nf4:g64+rotate"))
    for index, matrix in enumerate(stack.matrices()):
        alone = encode(weights[index], Scheme.parse("nf4:g64+rotate"))
        assert same_codes(matrix, alone)
        np.testing.assert_array_equal(stack.dequantize()[index], alone.dequantize())
    bits = (weights[0].astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    wide = BFloat16(bits).to_float32()
    assert same_codes(encode(BFloat16(bits), Scheme.parse("nf4:g64+rotate")), encode(wide, Scheme.parse("nf4:g64+rotate")))
    hessians = np.stack([problem(seed=seed)[1] for seed in range(3)])
    found = encode_gptq(weights, Scheme.parse("int3:g64+rotate+gptq"), hessians)
    alone = encode_gptq(weights[2], Scheme.parse("int3:g64+rotate+gptq"), hessians[2])
    assert same_codes(found.matrices()[2], alone)


@pytest.mark.parametrize("text", ["int3:g64+rotate", "kmeans3:g64+rotate", "int4:g64:e4m3+rotate"])
def test_pieces_make_the_same_bytes(text: str) -> None:
    weights, _ = problem(rows=70)
    encoder = NearestEncoder(weights.shape, Scheme.parse(text))
    pieces = [Piece(0, begin, weights[begin : begin + 32]) for begin in (64, 0, 32)]
    assert same_codes(encode_pieces(encoder, pieces), encode(weights, Scheme.parse(text)))


@pytest.mark.parametrize("methods", ["+rotate", "+rotate+gptq"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_named_where_it_is(methods: str, bad: float) -> None:
    weights, hessian = problem()
    weights[21, 97] = bad
    scheme = Scheme.parse(f"int3:g64{methods}")
    run = partial(encode_gptq, hessian=hessian) if "gptq" in methods else encode
    with pytest.raises(NumericsError, match=rf"w: expected finite weights, got {bad} at \[21, 97\]"):
        run(weights, scheme, name="w")


def test_rows_that_cannot_be_rotated_are_encoded_without() -> None:
    weights, hessian = problem(cols=72)
    assert encode(weights, Scheme.parse("int3:g16+rotate")).scheme.text == "int3:g16"
    assert encode_gptq(weights, Scheme.parse("int3:g16+rotate+gptq"), hessian).scheme.text == "int3:g16+gptq"


def test_a_weight_with_outliers_loses_less_when_rotated() -> None:
    weights, _ = problem(cols=256)
    weights[:, ::64] *= 10  # one in every group
    errors = {
        text: np.square(encode(weights, Scheme.parse(text)).dequantize() - weights).mean() for text in ("int3:g64", "int3:g64+rotate")
    }
    assert errors["int3:g64+rotate"] < 0.4 * errors["int3:g64"]
