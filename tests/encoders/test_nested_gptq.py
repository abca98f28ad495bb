"""Joint codes, GPTQ for nested codes and the fit of their levels against plain loops over all codes, and what they gain at every k."""

import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.encoders.compensate import column_order
from kbit.encoders.gptq import encode_gptq, mean_importance
from kbit.encoders.group_scales import GroupScales
from kbit.encoders.hessian import damped, damped_factor
from kbit.encoders.nested_codes import JointCodes, joint_weights
from kbit.encoders.nested_gptq import SHARES, compensate_nested, losses_of, sweep_nested
from kbit.encoders.nested_levels import ascending, fit_levels
from kbit.encoders.refine import Chosen
from kbit.tensor.blocks import rows_of_tiles
from kbit.tensor.nested import first_bits
from kbit.tensor.quantized import QuantizedTensor
from kbit.tensor.scales import scale_values


def problem(rows: int, cols: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the Hessian of correlated inputs."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(200, cols)) @ (draw.normal(size=(cols, cols)) * np.exp(0.5 * draw.normal(size=cols)))
    return draw.normal(size=(rows, cols)).astype(np.float32), (inputs.T @ inputs).astype(np.float32)


def chosen_of(weights: np.ndarray, hessian: np.ndarray, text: str) -> tuple[Chosen, np.ndarray, int]:
    """What nearest encoding chooses, its table of levels, and the bits."""
    first = encode(weights, Scheme.parse(text), importance=mean_importance(hessian))
    assert first.codebook is not None
    size = weights.shape[1] if first.scheme.group_size == -1 else first.scheme.group_size
    return Chosen(weights, hessian, first.codes(), GroupScales(first), size, True), first.codebook, first.scheme.bits


def level(table: np.ndarray, bits: int, k: int, code: int) -> float:
    return float(table[(1 << k) + (code >> (bits - k))])


def joint_loss(chosen: Chosen, table: np.ndarray, bits: int, weights: np.ndarray) -> float:
    """Σ_k λ_k e^k H e^kᵀ, by definition."""
    hessian, total = damped(chosen.inputs).astype(np.float64), 0.0
    for k, weight in zip(range(2, bits + 1), weights, strict=True):
        decoded = table[(1 << k) + (chosen.codes.astype(int) >> (bits - k))] * chosen.scales.value[:, chosen.group]
        error = chosen.weights.astype(np.float64) - decoded
        total += weight * float(np.einsum("ri,ij,rj->", error, hessian, error))
    return total


def losses(weights: np.ndarray, hessian: np.ndarray, tensor: QuantizedTensor) -> list[float]:
    found = []
    for k in range(2, tensor.scheme.bits + 1):
        error = (weights - first_bits(tensor, k).dequantize()).astype(np.float64)
        found.append(float(np.einsum("ri,ij,rj->", error, hessian.astype(np.float64), error)))
    return found


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_joint_code_is_the_best_of_all(bits: int) -> None:
    draw = np.random.default_rng(bits)
    table = np.concatenate([np.zeros(2), *(np.sort(draw.normal(size=1 << k)) for k in range(1, bits + 1))]).astype(np.float32)
    weights = draw.random(bits - 1) * 10.0 ** np.arange(bits - 1)
    targets, scale = draw.normal(size=(bits - 1, 9)).astype(np.float32), draw.normal(size=9).astype(np.float32)
    scale[4] = 0
    codes, amounts = JointCodes(bits, table, weights).chooser()(targets, scale)
    for n in range(9):
        cost = [
            sum(
                weights[k - 2] * (float(targets[k - 2, n]) - float(scale[n]) * level(table, bits, k, code)) ** 2 for k in range(2, bits + 1)
            )
            for code in range(1 << bits)
        ]
        assert cost[codes[n]] == pytest.approx(min(cost), rel=1e-9)
        told = [np.float32(level(table, bits, k, int(codes[n]))) * scale[n] for k in range(2, bits + 1)]
        np.testing.assert_array_equal(amounts[:, n], told)


def test_each_k_counts_in_parts_of_its_loss() -> None:
    weights = joint_weights((0.0, 0.0, 1.0, 2.0), np.array([8.0, 1.0]))
    np.testing.assert_allclose(weights, [1 / 16, 1])
    assert np.isfinite(joint_weights(SHARES, np.array([1.0, 0.0, 0.0]))).all()
    np.testing.assert_array_equal(joint_weights((0.0, 0.0, 1.0, 2.0), np.zeros(2)), [0.5, 1])


@pytest.mark.parametrize("text", ["nested2:g16:mse", "nested4:g16", "nested5:g-1:mse", "nested3:g16:e4m3", "nested4:g32:dq8:mse"])
def test_columns_make_up_for_errors_as_plain_loops_say(text: str) -> None:
    weights, hessian = problem(3, 70, seed=1)
    chosen, table, bits = chosen_of(weights, hessian, text)
    lam = joint_weights(SHARES, losses_of(chosen, table, bits))
    order = column_order(mean_importance(hessian), 0)
    factor = damped_factor(hessian[np.ix_(order, order)], "t")
    codes = compensate_nested(chosen, JointCodes(bits, table, lam), factor.astype(np.float32), order)
    for r in range(3):
        error = np.zeros((bits - 1, 70))
        for j, column in enumerate(order):
            scale, w = float(chosen.scales.value[r, chosen.group[column]]), float(weights[r, column])
            aims = [w + error[k, :j] @ factor[:j, j] / factor[j, j] for k in range(bits - 1)]
            cost = [
                sum(lam[k - 2] * (aims[k - 2] - scale * level(table, bits, k, code)) ** 2 for k in range(2, bits + 1))
                for code in range(1 << bits)
            ]
            code = int(codes[r, column])
            assert cost[code] <= min(cost) * (1 + 1e-3) + 1e-12, (r, column)
            error[:, j] = [w - scale * level(table, bits, k, code) for k in range(2, bits + 1)]


def test_a_sweep_never_loses_and_ends_where_no_code_is_better() -> None:
    weights, hessian = problem(2, 21, seed=2)
    chosen, table, bits = chosen_of(weights, hessian, "nested3:g16:mse")
    joint = JointCodes(bits, table, joint_weights(SHARES, losses_of(chosen, table, bits)))
    before = joint_loss(chosen, table, bits, joint.weights)
    for _ in range(30):
        sweep_nested(chosen, joint)
        after = joint_loss(chosen, table, bits, joint.weights)
        assert after <= before * (1 + 1e-5)
        before = after
    for r, j in np.ndindex(chosen.codes.shape):
        kept = chosen.codes[r, j]
        for code in range(1 << bits):
            chosen.codes[r, j] = code
            assert joint_loss(chosen, table, bits, joint.weights) >= before * (1 - 1e-5)
        chosen.codes[r, j] = kept


def test_losses_are_those_of_the_first_bits() -> None:
    weights, hessian = problem(600, 24, seed=3)
    chosen, table, bits = chosen_of(weights, hessian, "nested3:g16")
    for k, loss in zip((2, 3), losses_of(chosen, table, bits), strict=True):
        only = np.array([k == 2, k == 3], float)
        assert loss == pytest.approx(joint_loss(chosen, table, bits, only), rel=1e-4)


def test_levels_are_least_squares_under_the_hessian() -> None:
    """Where the solution ascends it is the solution of the normal equations."""
    weights, hessian = problem(40, 48, seed=4)
    chosen, table, bits = chosen_of(weights, hessian, "nested3:g16:mse")
    found = fit_levels([chosen], table, bits)
    h, scale = damped(hessian).astype(np.float64), chosen.scales.value[:, chosen.group].astype(np.float64)
    for k in (2, 3):
        nodes = chosen.codes.astype(int) >> (bits - k)
        shares = np.stack([(nodes == n) * scale for n in range(1 << k)])
        square = np.einsum("arc,cd,brd->ab", shares, h, shares, optimize=True)
        linear = np.einsum("arc,cd,rd->a", shares, h, weights.astype(np.float64), optimize=True)
        np.testing.assert_allclose(found[1 << k : 2 << k], np.linalg.solve(square, linear), rtol=2e-3, atol=2e-4)
    np.testing.assert_array_equal(found[:4], table[:4])


def test_pooling_is_the_isotonic_regression() -> None:
    draw = np.random.default_rng(5)
    for _ in range(20):
        values, mass = draw.normal(size=9) + np.linspace(0, 1, 9), draw.random(9) + 0.01
        mean = [[np.average(values[a : b + 1], weights=mass[a : b + 1]) if a <= b else 0.0 for b in range(9)] for a in range(9)]
        expected = [max(min(mean[a][b] for b in range(i, 9)) for a in range(i + 1)) for i in range(9)]
        np.testing.assert_allclose(ascending(values, mass), expected, atol=1e-12)
    np.testing.assert_allclose(ascending(np.array([0.0, 5.0, 1.0]), np.array([1.0, 0.0, 1.0])), [0, 1, 1], atol=1e-9)


@pytest.mark.parametrize("methods", ["+gptq", "+imp+gptq", "+imp+actorder+gptq", "+hqq+gptq", "+rotate+imp+gptq"])
def test_every_k_loses_less_than_by_the_nearest(methods: str) -> None:
    weights, hessian = problem(48, 160, seed=6)
    near = encode(weights, Scheme.parse("nested6:g32:mse"), importance=mean_importance(hessian))
    found = encode_gptq(weights, Scheme.parse(f"nested6:g32{methods}"), hessian)
    found.validate()
    for k, (then, now) in enumerate(zip(losses(weights, hessian, near), losses(weights, hessian, found), strict=True), 2):
        assert now < 0.95 * then or k == 2, k


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("options", [":g16", ":g-1", ":g32:e4m3", ":g32:dq8"])
def test_odd_shapes_and_stacks_of_every_width(bits: int, options: str) -> None:
    weights, hessian = problem(2 * 17, 41, seed=7)
    scheme, stack = Scheme.parse(f"nested{bits}{options}+imp+gptq"), weights.reshape(2, 17, 41)
    found = encode_gptq(stack, scheme, np.stack([hessian, 3 * hessian + np.eye(41, dtype=np.float32)]))
    found.validate()
    again = encode_gptq(stack, scheme, np.stack([hessian, 3 * hessian + np.eye(41, dtype=np.float32)]))
    for name, part in found.parts().items():
        np.testing.assert_array_equal(part, again.parts()[name])
    error = [float(np.square(stack - first_bits(found, k).dequantize()).mean()) for k in range(2, bits + 1)]
    assert error[0] < 0.5
    assert error[-1] <= error[0]


def test_a_hessian_of_zeros_leaves_scales_and_compensates_nothing() -> None:
    weights, _ = problem(20, 48, seed=8)
    first = encode(weights, Scheme.parse("nested4:g16:mse"))
    found = encode_gptq(weights, Scheme.parse("nested4:g16+imp+gptq"), np.zeros((48, 48), np.float32))
    found.validate()
    np.testing.assert_array_equal(rows_of_tiles(scale_values(found), 20), rows_of_tiles(scale_values(first), 20))
    assert np.square(weights - found.dequantize()).sum() < 1.3 * np.square(weights - first.dequantize()).sum()


def test_weights_of_zeros() -> None:
    _, hessian = problem(1, 48, seed=9)
    found = encode_gptq(np.zeros((20, 48), np.float32), Scheme.parse("nested8:g16+imp+gptq"), hessian)
    found.validate()
    assert not found.dequantize().any()
