"""Vector codebooks: entries, scales and codebooks against brute force, and what is stored of them."""

import numpy as np
import pytest

from kbit.core.errors import DTypeError, NumericsError, SchemeError, ShapeError
from kbit.core.scheme import Scheme
from kbit.encoders import NearestEncoder, encode
from kbit.encoders.nearest import Piece, encode_pieces, encoder_for
from kbit.encoders.vectors import VectorGroups, best_scales, fit_codebook, nearest_entries
from kbit.grids.gaussian_vectors import gaussian_codebook
from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.blocks import code_cols

HEADS = ["vq1d2", "vq1.5d2", "vq2d2", "vq2.5d2", "vq3d2", "vq1d3", "vq2d3", "nvq2d3", "nvq3d2"]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def importance_of(*shape: int, seed: int = 5) -> np.ndarray:
    return np.exp(normal(*shape, seed=seed))


def decoded_by_hand(found, rows: int, cols: int) -> np.ndarray:
    """scale · codebook[code][component], weight by weight."""
    codes, scale = found.codes(), found.scale.view(np.float16).astype(np.float32)
    size = cols if found.scheme.group_size == -1 else found.scheme.group_size
    out = np.empty((rows, cols), np.float32)
    for r in range(rows):
        for c in range(cols):
            out[r, c] = scale[r // 16, c // size, r % 16] * found.levels[codes[r, c // found.scheme.dims], c % found.scheme.dims]
    return out


# ---- entries and scales


@pytest.mark.parametrize(("dims", "bits"), [(2, 2), (2, 5), (3, 3), (3, 6)])
def test_the_entry_is_the_one_of_the_least_weighted_error(dims: int, bits: int) -> None:
    vectors, importance, codebook = normal(500, dims), importance_of(500, dims), normal(1 << bits, dims, seed=2)
    errors = (importance[:, None, :] * np.square(vectors[:, None, :] - codebook)).sum(-1)
    found = nearest_entries(vectors, importance, codebook)
    np.testing.assert_allclose(errors[np.arange(500), found], errors.min(1), rtol=1e-4, atol=1e-6)


def test_groups_are_cut_row_by_row_and_padded_by_what_does_not_count() -> None:
    rows = normal(2, 100)
    groups = VectorGroups.of(rows, importance_of(100), 96, 3)
    assert groups.weights.shape == groups.importance.shape == (4, 32, 3)
    assert np.array_equal(groups.weights[2].reshape(-1), rows[1, :96])
    assert np.array_equal(groups.weights[3].reshape(-1)[:4], rows[1, 96:])
    assert not groups.weights[3].reshape(-1)[4:].any()
    assert not groups.importance[3].reshape(-1)[4:].any()
    assert np.array_equal(groups.importance[1], groups.importance[3])


def test_a_searched_scale_is_nearly_the_best_there_is() -> None:
    groups, codebook = VectorGroups.of(normal(6, 96), importance_of(6, 96), 96, 3), gaussian_codebook(6, 3)

    def errors(scale: np.ndarray) -> np.ndarray:
        miss = groups.weights - scale[:, None, None] * codebook[groups.nearest(scale, codebook)]
        return (groups.importance * np.square(miss)).sum((1, 2))

    best = np.min([errors(np.full(6, scale, np.float32)) for scale in np.linspace(0.5, 2, 600)], axis=0)
    found = errors(best_scales(groups, codebook, search=True))
    assert (found <= 1.08 * best).all()
    assert found.sum() < 0.99 * errors(best_scales(groups, codebook, search=False)).sum()


# ---- codebooks


def test_a_fitted_codebook_beats_the_gaussian_one_where_weights_are_not_gaussian() -> None:
    weights = np.random.default_rng(1).laplace(size=(200, 192)).astype(np.float32)
    fixed, fitted = (encode(weights, Scheme.parse(f"{grid}2d3:g192:mse")).dequantize() for grid in ("nvq", "vq"))
    assert np.square(weights - fitted).mean() < 0.95 * np.square(weights - fixed).mean()


def test_importance_draws_the_codebook_to_what_matters() -> None:
    weights, importance = normal(100, 96), np.ones((100, 96), np.float32)
    importance[:, ::3] = 100
    plain, drawn = (encode(weights, Scheme.parse("vq2d3:g96:mse"), importance=given).dequantize() for given in (None, importance))
    assert np.square(weights - drawn)[:, ::3].mean() < 0.2 * np.square(weights - plain)[:, ::3].mean()


def test_entries_that_nobody_chooses_move_to_where_they_are_of_use() -> None:
    few = np.array([[1, 0], [0, 1], [-1, 0], [5, 5], [-5, 5], [5, -5]], np.float32)
    groups = VectorGroups.of(np.tile(few.reshape(1, -1), (4, 16))[:, :192], None, 192, 2)
    codebook = fit_codebook(groups, 3)
    scale = best_scales(groups, codebook, search=True)
    assert np.square(groups.weights - scale[:, None, None] * codebook[groups.nearest(scale, codebook)]).mean() < 1e-2


def test_zeros_decode_to_zeros() -> None:
    for text in ("vq2d3:g96", "vq2d2:g64:mse", "nvq2d3:g96:e4m3", "vq2d3:g96:dq8:mse"):
        found = encode(np.zeros((20, 192), np.float32), Scheme.parse(text))
        found.validate()
        assert not found.dequantize().any()


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e6, 1e25, 3e37])
@pytest.mark.parametrize("text", ["vq2d3:g96:mse", "vq2d2:g64", "nvq3d2:g64:e4m3:mse", "vq2d2:g64:dq8:mse"])
def test_weights_of_any_size_give_finite_numbers(text: str, size: float) -> None:
    weights = (normal(20, 192).clip(-5, 5).astype(np.float64) * size).astype(np.float32)
    found = encode(weights, Scheme.parse(text))
    found.validate()
    error = np.abs(found.dequantize().astype(np.float64) - weights).mean() / np.abs(weights.astype(np.float64)).mean()
    assert error < (0.4 if size > 1e-40 and found.scheme.scale_dtype != "fp16" else 1.001)


def test_importance_of_zeros_gives_no_preference() -> None:
    weights, scheme = normal(20, 96), Scheme.parse("vq2d3:g96")
    found = encode(weights, scheme, importance=np.zeros(96, np.float32))
    assert np.isfinite(found.dequantize()).all()
    assert np.array_equal(found.codebook, encode(weights, scheme).codebook)


# ---- what is stored


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (17, 200), (33, 97)])
def test_decoding_is_scale_times_component(head: str, rows: int, cols: int) -> None:
    scheme = Scheme.parse(head + (":g96" if head.endswith("3") else ":g64") + ":mse")
    found = encode(normal(rows, cols), scheme)
    found.validate()
    assert found.codes().shape == (rows, code_cols(scheme, cols))
    assert np.array_equal(found.dequantize(), decoded_by_hand(found, rows, cols))
    assert sum(found.bits_breakdown().values()) == pytest.approx(found.bpw)


@pytest.mark.parametrize(("head", "limit"), [("2d2", 0.108), ("2.5d2", 0.058), ("3d2", 0.031), ("2d3", 0.102)])
def test_gaussian_weights_lose_what_the_codebook_says(head: str, limit: float) -> None:
    weights = normal(200, 384)
    size = "g192" if head.endswith("3") else "g128"
    for grid in ("vq", "nvq"):
        assert np.square(weights - encode(weights, Scheme.parse(f"{grid}{head}:{size}:mse")).dequantize()).mean() < limit


@pytest.mark.parametrize("scale_dtype", ["e4m3", "dq8"])
def test_narrow_scales_cost_little(scale_dtype: str) -> None:
    weights = normal(50, 288) * np.exp(normal(50, 1, seed=3))
    plain, narrow = (encode(weights, Scheme.parse(f"vq2d3:g96:mse{more}")).dequantize() for more in ("", f":{scale_dtype}"))
    assert np.square(weights - narrow).mean() < 1.1 * np.square(weights - plain).mean()


@pytest.mark.parametrize("text", ["vq2d3:g96", "vq2d2:g-1:mse", "nvq2d3:g96:e4m3:mse", "vq3d2:g64:dq8"])
def test_pieces_give_the_bytes_of_the_whole(text: str) -> None:
    weights, importance = normal(2, 50, 200), importance_of(2, 50, 200)
    whole = encode(weights, Scheme.parse(text), importance=importance)
    pieces = [
        Piece(matrix, begin, weights[matrix, begin : begin + 32], importance[matrix, begin : begin + 32])
        for matrix in (0, 1)
        for begin in (0, 32)
    ]
    found = encode_pieces(encoder_for((2, 50, 200), Scheme.parse(text)), pieces)
    for name, part in whole.parts().items():
        assert np.array_equal(part, found.parts()[name]), name


def test_all_dtypes_are_taken() -> None:
    weights, scheme = normal(20, 96).astype(np.float16), Scheme.parse("vq2d3:g96")
    same = encode(weights.astype(np.float32), scheme).codes()
    assert np.array_equal(encode(weights, scheme).codes(), same)
    bits = (normal(20, 96).view(np.uint32) >> 16).astype(np.uint16)
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(encode(BFloat16(bits), scheme).codes(), encode(exact, scheme).codes())


def test_a_codebook_may_be_given() -> None:
    codebook = normal(64, 3, seed=9)
    found = encode(normal(20, 96), Scheme.parse("vq2d3:g96"), levels=codebook)
    assert np.array_equal(found.levels, codebook.astype(np.float16).astype(np.float32))


def test_what_does_not_fit_is_refused_by_what_was_expected() -> None:
    weights, scheme = normal(20, 96), Scheme.parse("vq2d3:g96")
    with pytest.raises(ShapeError, match=r"codebook \[64, 3\]"):
        encode(weights, scheme, levels=normal(64, 2))
    with pytest.raises(DTypeError, match="levels of float32"):
        encode(weights, scheme, levels=normal(64, 3).astype(np.float64))
    with pytest.raises(NumericsError, match="finite codebook"):
        encode(weights, scheme, levels=np.full((64, 3), np.nan, np.float32))
    with pytest.raises(SchemeError, match="follow from the scheme"):
        encode(weights, Scheme.parse("nvq2d3:g96"), levels=normal(64, 3))
    weights[3, 5] = np.inf
    with pytest.raises(NumericsError, match=r"w: expected finite weights, got inf at \[3, 5\]"):
        encode(weights, scheme, name="w")
    with pytest.raises(NumericsError, match=r"\[3, 5\]"):
        encode(weights, Scheme.parse("nvq2d3:g96"))


def test_scalar_grids_keep_their_encoder() -> None:
    assert type(encoder_for((4, 32), Scheme.parse("nf4:g32"))) is NearestEncoder
