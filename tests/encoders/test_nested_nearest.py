"""Scales of nested codes that suit every k: against a plain search by exact errors, and beside codes of one k alone."""

from itertools import pairwise

import numpy as np
import pytest

from kbit.core.errors import NumericsError
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.encoders.nearest import NearestEncoder, encoder_for
from kbit.encoders.nested_nearest import NestedEncoder
from kbit.encoders.nested_scales import COARSE, FINE, SHARES, Tree, UnitGroups, fit_tree
from kbit.encoders.vectors import VectorGroups
from kbit.tensor.nested import first_bits
from kbit.tensor.quantized import QuantizedTensor, part_shapes


def problem(rows: int, cols: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rows, cols)).astype(np.float32), np.exp(draw.normal(size=cols)).astype(np.float32)


def exact_cost(groups: UnitGroups, tree: Tree, shares: np.ndarray, g: int, ratio: float) -> float:
    """Σ_k share_k · squared error of the first k bits of the nearest codes, for one group and scale."""
    values = groups.units[g].astype(np.float64) / ratio
    codes, cost = tree.nearest(values), 0.0
    for k in range(2, tree.bits + 1):
        error = groups.units[g] - ratio * tree.levels(k)[codes >> (tree.bits - k)]
        cost += shares[k] * float((groups.importance[g] * np.square(error)).sum())
    return cost


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_the_scale_is_that_of_a_plain_search(bits: int) -> None:
    weights, importance = problem(12, 72, seed=bits)
    groups = UnitGroups.of(VectorGroups.of(weights, importance, 32, 1))
    tree, errors = fit_tree(groups, bits)
    sample, top = groups.sample(groups.search(errors))
    losses = tree.losses(sample, top)
    shares = np.zeros(bits + 1)
    shares[2:] = np.array(SHARES[2 : bits + 1]) / losses[2:]
    found = groups.search(tree.errors(losses))
    for g in range(len(found)):
        coarse = min(COARSE, key=lambda ratio: exact_cost(groups, tree, shares, g, float(ratio)))
        best = min(exact_cost(groups, tree, shares, g, float(part * coarse)) for part in FINE)
        assert exact_cost(groups, tree, shares, g, float(found[g])) <= 1.05 * best, g


def test_every_k_loses_little_more_than_a_grid_and_scales_of_its_own() -> None:
    weights, importance = problem(256, 256, seed=1)
    nested = encode(weights, Scheme.parse("nested8:g64+imp"), importance=importance)

    def lost(tensor: QuantizedTensor) -> float:
        return float((importance * np.square(weights - tensor.dequantize(), dtype=np.float64)).sum())

    for k in range(3, 9):
        alone = encode(weights, Scheme.parse(f"kmeans{k}:g64+imp"), importance=importance)
        assert lost(first_bits(nested, k)) < (1.25 if k == 3 else 1.12) * lost(alone), k


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("options", [":g16", ":g-1", ":g32:e4m3", ":g32:dq8"])
def test_odd_shapes_every_width_and_type_of_scales(bits: int, options: str) -> None:
    weights, importance = problem(2 * 19, 41, seed=2)
    stack, scheme = weights.reshape(2, 19, 41), Scheme.parse(f"nested{bits}{options}+imp")
    found = encode(stack, scheme, importance=importance)
    found.validate()
    again = encode(stack, scheme, importance=importance)
    for name, part in found.parts().items():
        np.testing.assert_array_equal(part, again.parts()[name])
    error = [float(np.square(stack - first_bits(found, k).dequantize()).mean()) for k in range(2, bits + 1)]
    assert error[0] < 0.4
    assert all(then > now for then, now in pairwise(error))


@pytest.mark.parametrize("scale_type", ["fp16", "e4m3", "dq8"])
def test_pieces_are_the_whole(scale_type: str) -> None:
    weights, importance = problem(40, 48, seed=3)
    scheme = Scheme.parse(f"nested5:g16:{scale_type}+imp")
    whole = encode(weights, scheme, importance=importance)
    encoder = encoder_for(weights.shape, scheme)
    pieces = [(0, weights[:16]), (16, weights[16:])]
    for begin, piece in pieces:
        encoder.prepare(begin, piece, importance=importance)
    parts = {name: np.zeros(shape, dtype) for name, (shape, dtype) in part_shapes(scheme, weights.shape).items()}
    segments = encoder.constant_segments()
    for begin, piece in reversed(pieces):
        segments += encoder.encode_rows(begin, piece, importance=importance)
    for segment in segments:
        parts[segment.part].reshape(-1).view(np.uint8)[segment.offset : segment.offset + segment.data.size] = segment.data
    for name, part in whole.parts().items():
        np.testing.assert_array_equal(part, parts[name])


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e-7, 1e30])
@pytest.mark.parametrize("options", [":g16", ":g16:e4m3", ":g16:dq8"])
def test_weights_of_any_size(factor: float, options: str) -> None:
    weights, importance = problem(20, 40, seed=4)
    weights[3] = 0
    importance[:5] = 0
    found = encode((weights * np.float32(factor)), Scheme.parse(f"nested4{options}+imp"), importance=importance)
    found.validate()
    assert np.isfinite(found.dequantize()).all()
    assert not found.dequantize()[3].any()


def test_importance_of_zeros_counts_all_alike_in_no_scale() -> None:
    weights, _ = problem(20, 40, seed=5)
    found = encode(weights, Scheme.parse("nested4:g16+imp"), importance=np.zeros(40, np.float32))
    found.validate()
    assert np.square(weights - found.dequantize()).mean() < 0.1


def test_weights_that_are_not_finite_are_refused() -> None:
    weights, importance = problem(20, 40, seed=6)
    weights[17, 3] = np.nan
    with pytest.raises(NumericsError, match=r"w: expected finite weights, got nan at \[17, 3\]"):
        encode(weights, Scheme.parse("nested4:g16+imp"), importance=importance, name="w")


def test_plain_nearest_and_hqq_are_the_native_encoder() -> None:
    assert type(encoder_for((16, 32), Scheme.parse("nested8:g16"))) is NearestEncoder
    assert type(encoder_for((16, 32), Scheme.parse("nested8:g16+hqq"))) is NearestEncoder
    assert type(encoder_for((16, 32), Scheme.parse("nested8:g16:mse"))) is NestedEncoder
