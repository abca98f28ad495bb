"""The trellis encoder against all paths of tiny rows, and its losses against those of other ways."""

import itertools

import numpy as np
import pytest

from kbit.core.errors import DTypeError, NumericsError, SchemeError, ShapeError
from kbit.core.scheme import Scheme
from kbit.encoders import trellis_gptq
from kbit.encoders.gptq import encode_gptq
from kbit.encoders.hessian import damped_factor
from kbit.encoders.nearest import encode
from kbit.grids import levels_for
from kbit.native import available_isas, isa, set_isa
from kbit.native import trellis as native
from kbit.tensor.trellis import MULTIPLIERS, pack_steps, state_bits, unpack_indices

Array = np.ndarray
BITS = (1, 2, 3, 4)
STATE_BITS = 10


def levels_of(bits: int) -> Array:
    return levels_for(Scheme.parse(f"trellis{bits}"))


def code_of(bits: int) -> native.TrellisCode:
    return native.TrellisCode(bits, levels_of(bits))


def all_paths(bits: int, cols: int) -> tuple[Array, Array]:
    """(steps, levels) of every path of `cols` columns from state 0, [paths, cols]."""
    steps = np.array(list(itertools.product(range(1 << bits), repeat=cols)), np.uint8)
    return steps, levels_of(bits)[unpack_indices(pack_steps(steps, bits), *steps.shape, bits)]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def hessian_of(cols: int, seed: int = 0) -> Array:
    inputs = normal(seed, 4 * cols, cols) @ normal(seed + 1, cols, cols)
    return (inputs.T @ inputs).astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("weighed", [False, True])
def test_no_path_is_better_than_viterbis(bits: int, weighed: bool) -> None:
    cols = 12 // bits
    steps, levels = all_paths(bits, cols)
    weights = normal(bits, 5, cols)
    importance = np.random.default_rng(3).uniform(0.1, 3, (5, cols)).astype(np.float32) if weighed else None
    value = np.full((5, 1), 1.1 / 52, np.float32)
    found = native.path(code_of(bits), weights, cols, value, importance=importance)
    weigh = np.ones((5, cols)) if importance is None else importance.astype(np.float64)
    for row in range(5):
        errors = (weigh[row] * (weights[row] - value[row].astype(np.float64) * levels) ** 2).sum(axis=1)
        mine = errors[int(np.flatnonzero((steps == found[row]).all(axis=1))[0])]
        assert mine <= errors.min() * (1 + 1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_compensation_is_the_best_of_all_paths_while_states_tell_them_apart(bits: int) -> None:
    cols = state_bits(bits) // bits
    steps, levels = all_paths(bits, cols)
    weights, carried = normal(1, 4, cols), normal(2, 4, cols)
    factor = damped_factor(hessian_of(cols), "test").astype(np.float32)
    scale = np.random.default_rng(5).uniform(0.8, 1.4, (4, cols)).astype(np.float32) / 52
    state = np.zeros(4, np.uint16)
    found, error = native.compensate(code_of(bits), weights, carried, factor, scale, state, cols)
    for row in range(4):
        misses = weights[row] - scale[row].astype(np.float64) * levels
        losses = ((misses @ np.triu(factor.astype(np.float64)) + carried[row]) ** 2).sum(axis=1)
        mine = int(np.flatnonzero((steps == found[row]).all(axis=1))[0])
        assert losses[mine] <= losses.min() * (1 + 1e-4)
        np.testing.assert_allclose(error[row], misses[mine], rtol=1e-5, atol=1e-6)
        assert state[row] == int("".join(f"{step:0{bits}b}" for step in found[row]), 2)


@pytest.mark.parametrize("bits", BITS)
def test_without_correlation_compensation_is_viterbis_path(bits: int) -> None:
    cols, diagonal = 40, np.random.default_rng(0).uniform(0.5, 2, 40).astype(np.float32)
    weights, value = normal(7, 6, cols), np.full((6, 1), 1.05 / 52, np.float32)
    best = native.path(code_of(bits), weights, cols, value, importance=diagonal**2)
    state = np.zeros(6, np.uint16)
    steps, _ = native.compensate(
        code_of(bits), weights, np.zeros_like(weights), np.diag(diagonal), np.repeat(value, cols, axis=1), state, cols
    )

    def loss(steps: Array) -> Array:
        chosen = levels_of(bits)[unpack_indices(pack_steps(np.ascontiguousarray(steps), bits), 6, cols, bits)]
        return ((diagonal * (weights - value * chosen)) ** 2).sum(axis=1)

    np.testing.assert_allclose(loss(steps), loss(best), rtol=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_columns_that_look_ahead_are_decided_by_the_next_call(bits: int) -> None:
    weights, carried, factor = normal(1, 3, 24), normal(2, 3, 24), np.triu(normal(3, 24, 24)) + 3 * np.eye(24, dtype=np.float32)
    scale, state = np.full((3, 24), 1 / 52, np.float32), np.zeros(3, np.uint16)
    steps, error = native.compensate(code_of(bits), weights, carried, factor.astype(np.float32), scale, state, 16)
    assert steps.shape == error.shape == (3, 16)
    for row in range(3):
        stream = int("".join(f"{step:0{bits}b}" for step in steps[row]), 2)
        assert state[row] == stream % (1 << state_bits(bits))


@pytest.mark.parametrize(("bits", "bound"), [(1, 0.29), (2, 0.077), (3, 0.0205), (4, 0.0058)])
def test_a_normal_source_loses_less_than_any_scalar_quantizer(bits: int, bound: float) -> None:
    """Lloyd and Max: 0.363, 0.1175, 0.0345, 0.0095 at 1…4 bits; the rate-distortion bound is 4^−bits."""
    weights = normal(0, 32, 512)
    decoded = encode(weights, Scheme.parse(f"trellis{bits}:g256")).dequantize()
    error = float(((weights - decoded) ** 2).mean() / (weights**2).mean())
    assert 4.0**-bits < error < bound


@pytest.mark.parametrize("text", ["trellis2:g32", "trellis3:g-1", "trellis2:g48:e4m3"])
def test_threads_change_no_byte(text: str) -> None:
    weights = normal(0, 40, 130)
    one, three = (encode(weights, Scheme.parse(text), threads=threads) for threads in (1, 3))
    assert all(one.parts()[name].tobytes() == part.tobytes() for name, part in three.parts().items())
    one.validate()


def test_scales_follow_importance() -> None:
    weights, importance = normal(0, 16, 128), np.where(np.arange(128) % 4 == 0, 50, 0.02).astype(np.float32)
    scheme = Scheme.parse("trellis2:g64+imp")
    plain, weighed = encode(weights, Scheme.parse("trellis2:g64")), encode(weights, scheme, importance=importance)

    def loss(decoded: Array) -> float:
        return float((importance * (weights - decoded) ** 2).sum())

    assert loss(weighed.dequantize()) < 0.8 * loss(plain.dequantize())


def least_error(code: native.TrellisCode, weights: Array, scale: float) -> float:
    """Of all paths of one group from any state, by the Viterbi algorithm once more."""
    states = np.arange(1 << STATE_BITS)
    levels = scale * code.levels[((states * MULTIPLIERS[code.bits]) & 0xFFFF) >> 8 & 63]
    before = (states >> code.bits)[:, None] | np.arange(1 << code.bits) << (STATE_BITS - code.bits)
    cost = np.zeros(states.size)
    for weight in weights:
        cost = cost[before].min(1) + np.square(weight - levels)
    return float(cost.min())


def test_of_the_scales_tried_the_best_is_taken() -> None:
    weights, code, parts = normal(1, 3, 70), code_of(3), (0.7, 1.0, 1.3, 1.9)
    alone = np.stack([native.scales(code, weights, 32, (part,), 0)[1] for part in parts])
    np.testing.assert_allclose(alone / alone[1], np.broadcast_to(np.array(parts)[:, None, None], alone.shape), rtol=2e-3)  # of fp16
    found = native.scales(code, weights, 32, parts, 0)[1]
    fitted = native.scales(code, weights, 32, parts, 2)[1]
    assert found.shape == (3, 3)
    for row, group in np.ndindex(*found.shape):
        columns = weights[row, 32 * group : 32 * group + 32]
        errors = [least_error(code, columns, scale) for scale in alone[:, row, group]]
        assert found[row, group] == alone[np.argmin(errors), row, group]
        assert least_error(code, columns, fitted[row, group]) <= min(errors) * (1 + 1e-6)
    assert (fitted != found).any()
    for bad in ((), (1.0, 0.0), (float("nan"),)):
        with pytest.raises(ShapeError, match="scale to try"):
            native.scales(code, weights, 32, bad, 0)


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("inputs", ["mixed", "neighbours", "alike"])
def test_a_few_rows_tell_which_scales_to_try(bits: int, inputs: str) -> None:
    """What is taken for a matrix loses hardly more than the best way for all its rows."""
    weights = normal(2, 80, 256)
    distance = np.abs(np.subtract.outer(np.arange(256), np.arange(256)))
    hessian = {"mixed": hessian_of(256, 5), "neighbours": 0.95**distance, "alike": np.where(distance == 0, 1.0, 0.9)}[inputs].astype(
        np.float32
    )

    def loss() -> float:
        error = (encode_gptq(weights, Scheme.parse(f"trellis{bits}:g64+gptq"), hessian).dequantize() - weights).astype(np.float64)
        return float(np.einsum("ri,ij,rj->", error, hessian.astype(np.float64), error))

    found, ways = loss(), trellis_gptq._ways(bits)
    alone = []
    for way in ways:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trellis_gptq, "_ways", lambda bits, way=way: (way,))
            alone.append(loss())
    assert found <= 1.02 * min(alone)
    assert found < max(alone)


def test_zeros_stay_zeros() -> None:
    weights = normal(0, 20, 96)
    weights[3] = 0
    weights[:, 32:64] = 0
    decoded = encode(weights, Scheme.parse("trellis2:g32")).dequantize()
    assert not decoded[3].any()
    assert not decoded[:, 32:64].any()


@pytest.mark.parametrize("text", ["trellis2:g32+gptq", "trellis3:g48+imp+gptq", "trellis2:g-1+gptq", "trellis4:g16:e4m3+imp+gptq"])
def test_compensated_errors_lose_less(text: str) -> None:
    weights, hessian, scheme = normal(0, 24, 200), hessian_of(200, 4), Scheme.parse(text)
    plain = encode(weights, Scheme.parse(text.split("+", maxsplit=1)[0]))
    compensated = encode_gptq(weights, scheme, hessian)
    compensated.validate()
    assert compensated.scheme == scheme.for_row(200)

    def loss(decoded: Array) -> float:
        error = (weights - decoded).astype(np.float64)
        return float(np.einsum("ri,ij,rj->", error, hessian.astype(np.float64), error))

    assert loss(compensated.dequantize()) < 0.6 * loss(plain.dequantize())
    again = encode_gptq(weights, scheme, hessian, threads=3)
    assert all(again.parts()[name].tobytes() == part.tobytes() for name, part in compensated.parts().items())


@pytest.mark.parametrize("bits", BITS)
def test_every_instruction_set_chooses_the_same(bits: int) -> None:
    weights, hessian, scheme = normal(bits, 6, 150), hessian_of(150, bits), Scheme.parse(f"trellis{bits}:g64+imp+gptq")
    before, found = isa(), set()
    try:
        for name in available_isas():
            set_isa(name)
            for tensor in (encode_gptq(weights, scheme, hessian), encode(weights, Scheme.parse(f"trellis{bits}:g64"))):
                found.add(b"".join(part.tobytes() for part in tensor.parts().values()))
    finally:
        set_isa(before)
    assert len(found) == 2


def test_a_stack_is_its_matrices() -> None:
    weights, hessians = normal(0, 2, 17, 64), np.stack([hessian_of(64, 1), hessian_of(64, 2)])
    for text in ("trellis2:g32+gptq", "trellis2:g32:e4m3+imp+gptq"):
        scheme = Scheme.parse(text)
        stack = encode_gptq(weights, scheme, hessians)
        for matrix, single, hessian in zip(stack.matrices(), weights, hessians, strict=True):
            alone = encode_gptq(single, scheme, hessian)
            assert all(alone.parts()[name].tobytes() == np.ascontiguousarray(part).tobytes() for name, part in matrix.parts().items())


def test_hessian_of_zeros_compensates_nothing() -> None:
    weights = normal(0, 16, 64)
    plain = encode(weights, Scheme.parse("trellis3:g64")).dequantize()
    unseen = encode_gptq(weights, Scheme.parse("trellis3:g64+gptq"), np.zeros((64, 64), np.float32)).dequantize()
    assert ((weights - unseen) ** 2).mean() <= 1.02 * ((weights - plain) ** 2).mean()


def test_bad_input_is_refused() -> None:
    weights = normal(0, 16, 64)
    weights[5, 7] = np.nan
    for text, options in (("trellis2:g32", {}), ("trellis2:g32+gptq", {"hessian": np.eye(64, dtype=np.float32)})):
        with pytest.raises(NumericsError, match=r"layer.*\[5, 7\]"):
            (encode_gptq if options else encode)(weights, Scheme.parse(text), name="layer", **options)  # type: ignore[operator]
    with pytest.raises(SchemeError, match="actorder"):
        Scheme.parse("trellis2:g64+actorder+gptq")
    with pytest.raises(SchemeError, match="dq8"):
        Scheme.parse("trellis2:g64:dq8")
    with pytest.raises(SchemeError, match="asym"):
        Scheme.parse("trellis2:g64:asym")
    with pytest.raises(SchemeError, match="1…4 bits"):
        Scheme.parse("trellis5:g64")
    with pytest.raises(ShapeError, match="1…4 bits"):
        native.TrellisCode(5, levels_of(4))
    good = normal(0, 4, 8)
    with pytest.raises(DTypeError):
        native.path(code_of(2), good.astype(np.float64), 8, np.ones((4, 1), np.float32))
    with pytest.raises(ShapeError):
        native.path(code_of(2), good, 8, np.ones((4, 2), np.float32))
    with pytest.raises(ShapeError, match="keep"):
        native.compensate(code_of(2), good, good, np.eye(8, dtype=np.float32), good, np.zeros(4, np.uint16), 9)


def test_text_is_canonical() -> None:
    assert Scheme.parse("trellis2:mse:g128+imp+gptq").text == "trellis2:g128+imp+gptq"
    assert Scheme.parse("trellis3").scale_search == "mse"
    assert MULTIPLIERS.keys() == {1, 2, 3, 4}
