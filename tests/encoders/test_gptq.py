"""GPTQ against column-by-column brute force with an explicit inverse, for every grid, and what it gains."""

import numpy as np
import pytest

from kbit.core.errors import DTypeError, NumericsError, SchemeError, ShapeError
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.encoders.gptq import encode_gptq
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.blocks import rows_of_tiles
from kbit.tensor.scales import scale_values

GRIDS = ["int3", "float4", "log3", "nf3", "quantile3", "dynamic4", "kmeans3"]
OPTIONS = [":g16", ":g32", ":g-1", ":g16:mse", ":g32:e4m3", ":g16:dq8"]
METHODS = ["+gptq", "+imp+gptq", "+actorder+gptq", "+imp+actorder+gptq"]


def problem(rows: int = 20, cols: int = 72, seed: int = 0, samples: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the Hessian of correlated inputs of very different sizes; 72 columns leave a ragged group of 8."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(samples, cols)) @ (draw.normal(size=(cols, cols)) * np.exp(draw.normal(size=cols)))
    return draw.normal(size=(rows, cols)).astype(np.float32), (inputs.T @ inputs).astype(np.float32)


def brute_force(
    weights: np.ndarray, hessian: np.ndarray, scheme: Scheme, multipliers: tuple[float, ...] = (), damping: float = 0.01
) -> np.ndarray:
    """Decoded weights of GPTQ as its paper says it: after each column, all that follow are moved by the inverse of what is left of H.

    A group takes that one of its scale and the `multipliers` of it with the least sum of error² / inverse over its columns.
    """
    rows, cols = weights.shape
    diagonal = np.diagonal(hessian).astype(np.float64)
    importance = (diagonal / diagonal.mean()).astype(np.float32) if "imp" in scheme.methods else None
    options = scheme.text.split("+")[0] + (":mse" if importance is not None else "")
    plain = Scheme.parse(options)
    first = encode(weights, plain, importance=importance)
    width = cols if plain.group_size == -1 else plain.group_size
    static_order = "actorder" in scheme.methods or plain.scale_dtype == "dq8"
    means = [diagonal[begin : begin + width].mean() for begin in range(0, cols, width)]
    order = sorted(range(cols), key=lambda j: ((0, 0) if static_order else (-means[j // width], j // width), -diagonal[j], j))
    left = list(order)
    started = set()
    h = hessian.astype(np.float64) + damping * diagonal.mean() * np.eye(cols)
    w = weights.astype(np.float64)
    scale = rows_of_tiles(scale_values(first), rows).astype(np.float64)
    zero = np.zeros_like(scale) if first.zero_point is None else rows_of_tiles(first.zero_point, rows).astype(np.float64)
    for j in order:
        g = j // width
        levels = first.levels.astype(np.float64)
        if not static_order and g not in started:
            started.add(g)
            scale[:, g], zero[:, g] = scales_of(w[:, g * width : (g + 1) * width], plain, first, importance, g * width)
            for r in range(rows):
                tried = [float(np.float16(np.float32(scale[r, g]) * np.float32(m))) for m in (1.0, *multipliers)]
                inside = [i for i in left if i // width == g]
                losses = [move(w[r].copy(), h, left, inside, s * (levels - zero[r, g])) for s in tried]
                scale[r, g] = tried[int(np.argmin(losses))] if multipliers else scale[r, g]
        for r in range(rows):
            move(w[r], h, left, [j], scale[r, g] * (levels - zero[r, g]))
        left.remove(j)
    return w


def move(row: np.ndarray, h: np.ndarray, left: list[int], columns: list[int], choices: np.ndarray) -> float:
    """Round `columns` of a row, those `left` making up for each; what is lost."""
    left, loss = list(left), 0.0
    for j in columns:
        chosen = choices[np.argmin(np.abs(choices - row[j]))] if choices.any() else 0.0
        error = row[j] - chosen
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        at = left.index(j)
        row[left] -= error * inverse[at] / inverse[at, at]
        row[j] = chosen
        loss += error**2 / inverse[at, at]
        left.remove(j)
    return loss


def scales_of(columns: np.ndarray, plain: Scheme, first, importance, begin: int) -> tuple[np.ndarray, np.ndarray]:
    """(scale, zero point) of each row of a group, as the nearest encoder chooses them for a matrix of that group alone."""
    if plain.scale_dtype == "e4m3":  # with the super-scale of the whole matrix: an extra row that brings it along is not in a matrix
        from kbit.encoders.group_scales import GroupScales

        scales = GroupScales(first)
        given = None if importance is None else importance[begin : begin + columns.shape[1]]
        scales.decide(0, columns.astype(np.float32), given)
        return scales.value[:, 0], scales.zero[:, 0]
    alone = Scheme.parse(plain.text.replace(f"g{plain.group_size}", "g-1"))
    given = None if importance is None else importance[begin : begin + columns.shape[1]]
    fitted = plain.grid in ("quantile", "kmeans")
    one = encode(columns.astype(np.float32), alone, importance=given, levels=first.levels if fitted else None)
    zero = np.zeros(len(columns)) if one.zero_point is None else rows_of_tiles(one.zero_point, len(columns))[:, 0]
    return rows_of_tiles(scale_values(one), len(columns))[:, 0].astype(np.float64), zero.astype(np.float64)


def output_error(weights: np.ndarray, decoded: np.ndarray, hessian: np.ndarray) -> float:
    error = (weights - decoded).astype(np.float64)
    return float(np.einsum("ri,ij,rj->", error, hessian.astype(np.float64), error))


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_is_what_brute_force_says(grid: str) -> None:
    weights, hessian = problem(rows=6)
    scheme = Scheme.parse(f"{grid}:g16+gptq")
    found = encode_gptq(weights, scheme, hessian, multipliers=(), rounds=0)
    np.testing.assert_allclose(found.dequantize(), brute_force(weights, hessian, scheme), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("options", [":g16", ":g32:mse", ":g32:asym"])
def test_the_scale_of_a_group_is_the_best_of_its_multiples(options: str) -> None:
    weights, hessian = problem(rows=6, cols=72, seed=8)
    scheme, multipliers = Scheme.parse(f"int2{options}+gptq"), (0.7, 0.9, 1.2)
    found = encode_gptq(weights, scheme, hessian, multipliers=multipliers, rounds=0).dequantize()
    np.testing.assert_allclose(found, brute_force(weights, hessian, scheme, multipliers), rtol=2e-6, atol=1e-6)
    assert not np.allclose(found, brute_force(weights, hessian, scheme))


@pytest.mark.parametrize("methods", METHODS)
@pytest.mark.parametrize("options", [*OPTIONS, ":g32:asym", ":g-1:asym:mse"])
def test_every_option_and_method_is_what_brute_force_says(options: str, methods: str) -> None:
    weights, hessian = problem(rows=5, cols=40, seed=3)
    scheme = Scheme.parse(f"int3{options}{methods}")
    found = encode_gptq(weights, scheme, hessian, block=7, multipliers=(), rounds=0)
    np.testing.assert_allclose(found.dequantize(), brute_force(weights, hessian, scheme), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("methods", METHODS)
@pytest.mark.parametrize("grid", ["int2", "nf3", "kmeans4"])
def test_the_output_loses_less_than_by_the_nearest(grid: str, methods: str) -> None:
    weights, hessian = problem(rows=48, cols=160, seed=1)
    plain = encode(weights, Scheme.parse(f"{grid}:g32" + (":mse" if "imp" in methods else "")))
    better = encode_gptq(weights, Scheme.parse(f"{grid}:g32{methods}"), hessian)
    assert output_error(weights, better.dequantize(), hessian) < 0.8 * output_error(weights, plain.dequantize(), hessian)


def test_blocks_change_rounding_only() -> None:
    weights, hessian = problem(rows=32, cols=160, seed=2)
    scheme = Scheme.parse("nf3:g64+gptq")
    codes = [encode_gptq(weights, scheme, hessian, block=block).codes() for block in (1, 16, 50, 128, 1000)]
    assert all((one != codes[0]).mean() < 0.01 for one in codes)


def test_what_is_stored_is_named_and_sized_like_a_nearest_encoding() -> None:
    weights, hessian = problem()
    for text in ("nf3:g16+gptq", "kmeans3:g32:e4m3+imp+gptq", "int4:g16:asym:dq8+gptq"):
        quantized = encode_gptq(weights, Scheme.parse(text), hessian)
        plain = encode(weights, Scheme.parse(text.split("+")[0]))
        quantized.validate()
        assert quantized.scheme.text == text
        assert {name: part.shape for name, part in quantized.parts().items()} == {name: part.shape for name, part in plain.parts().items()}


def test_a_group_beyond_the_row_is_one_scale_a_row() -> None:
    weights, hessian = problem()
    assert encode_gptq(weights, Scheme.parse("int4:g128+gptq"), hessian).scheme.text == "int4:g-1+gptq"


def test_a_stack_is_its_matrices() -> None:
    pairs = [problem(seed=seed) for seed in (4, 5)]
    weights, hessians = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    for text in ("int3:g16+gptq", "nf3:g16:e4m3+imp+gptq", "int3:g16:asym:dq8+actorder+gptq"):
        scheme = Scheme.parse(text)
        stack = encode_gptq(weights, scheme, hessians).dequantize()
        for one, (matrix, hessian) in zip(stack, pairs, strict=True):
            assert np.array_equal(one, encode_gptq(matrix, scheme, hessian).dequantize())


def test_halves_and_bfloat16_are_their_float32() -> None:
    weights, hessian = problem()
    scheme = Scheme.parse("int3:g16+gptq")
    half = weights.astype(np.float16)
    bits = (weights.view(np.uint32) >> 16).astype(np.uint16)
    for given, same in ((half, half.astype(np.float32)), (BFloat16(bits), BFloat16(bits).to_float32())):
        assert np.array_equal(encode_gptq(given, scheme, hessian).codes(), encode_gptq(same, scheme, hessian).codes())


def test_inputs_never_seen_fall_back_to_the_nearest() -> None:
    weights, hessian = problem()
    for methods in ("+gptq", "+actorder+gptq"):
        quantized = encode_gptq(weights, Scheme.parse(f"int3:g16{methods}"), np.zeros_like(hessian))
        assert np.array_equal(quantized.codes(), encode(weights, Scheme.parse("int3:g16")).codes())


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_factor_of_the_hessian_changes_nothing(size: float) -> None:
    weights, hessian = problem()
    scheme = Scheme.parse("int3:g16+gptq")
    scaled = (hessian.astype(np.float64) / hessian.max() * size).astype(np.float32)
    assert (encode_gptq(weights, scheme, scaled).codes() != encode_gptq(weights, scheme, hessian).codes()).mean() < 0.01


def test_a_singular_hessian_is_damped() -> None:
    weights, _ = problem()
    one = np.ones((72, 1), np.float32)
    for damping in (0.0, 0.01):
        quantized = encode_gptq(weights, Scheme.parse("int3:g16+gptq"), one @ one.T, damping=damping)
        assert np.isfinite(quantized.dequantize()).all()


def test_dead_inputs_cost_nothing() -> None:
    weights, hessian = problem()
    hessian[5] = hessian[:, 5] = 0
    assert np.isfinite(encode_gptq(weights, Scheme.parse("int3:g16+imp+gptq"), hessian).dequantize()).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda h: h.astype(int), DTypeError, "expected a floating-point Hessian"),
        (lambda h: h[:-1, :-1], ShapeError, r"expected a Hessian \[72, 72\], got \[71, 71\]"),
        (lambda h: h[None, None], ShapeError, "expected a Hessian"),
        (lambda h: np.where(np.arange(72) == 3, np.nan, h).astype(np.float32), NumericsError, r"nan at \[0, 3\]"),
        (lambda h: h - 1e9 * np.eye(72, dtype=np.float32), NumericsError, "diagonal of at least 0"),
        (lambda h: h + 1e9 * (1 - np.eye(72, dtype=np.float32)), NumericsError, "damping cannot mend"),
    ],
)
def test_what_is_no_hessian_is_refused(change, error: type[Exception], message: str) -> None:
    weights, hessian = problem()
    with pytest.raises(error, match=message):
        encode_gptq(weights, Scheme.parse("int3:g16+gptq"), change(hessian), name="layer")


def test_other_arguments_that_do_not_fit() -> None:
    weights, hessian = problem()
    scheme = Scheme.parse("int3:g16+gptq")
    with pytest.raises(SchemeError, match=r"expected a scheme with '\+gptq'"):
        encode_gptq(weights, Scheme.parse("int3:g16"), hessian)
    with pytest.raises(ShapeError, match="blocks of at least one column"):
        encode_gptq(weights, scheme, hessian, block=0)
    with pytest.raises(NumericsError, match="damping"):
        encode_gptq(weights, scheme, hessian, damping=2.0)
    with pytest.raises(NumericsError, match=r"layer: expected finite weights, got nan at \[0, 0\]"):
        encode_gptq(np.where(np.arange(72) == 0, np.nan, weights).astype(np.float32), scheme, hessian, name="layer")
