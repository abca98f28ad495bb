import weakref
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import DTypeError, FormatError, IntegrityError, KbitError, NumericsError, SchemeError, ShapeError
from kbit.entropy import huffman
from kbit.entropy.huffman import CompressedLayer, CompressedMatrix, CompressedModel, compress, compress_matrix, infer
from kbit.entropy.matrix import exact_product


def plain(codes, scale, codebook, group_size, x, zero_point=None):
    """The sum of the docstring, a number at a time, in float32."""
    y = np.zeros((len(x), len(codes)), np.float32)
    for b, r in np.ndindex(y.shape):
        total = np.float32(0)
        for group in range(scale.shape[1]):
            inner = np.float32(0)
            for j in range(group * group_size, min((group + 1) * group_size, codes.shape[1])):
                level = codebook[codes[r, j]]
                if zero_point is not None:
                    level = np.float32(level - zero_point[r, group])
                inner = np.float32(inner + np.float32(level * x[b, j]))
            total = np.float32(total + np.float32(scale[r, group] * inner))
        y[b, r] = total
    return y


@st.composite
def matrices(draw):
    rows, cols, bits = draw(st.integers(1, 9)), draw(st.integers(1, 40)), draw(st.integers(1, 8))
    group_size = min(draw(st.sampled_from([1, 3, 16, 64])), cols)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    groups = -(-cols // group_size)
    return {
        "codes": rng.integers(0, 2**bits, (rows, cols)).astype(np.uint8),
        "scale": rng.standard_normal((rows, groups)).astype(np.float32),
        "codebook": np.sort(rng.standard_normal(2**bits)).astype(np.float32),
        "group_size": group_size,
        "zero_point": rng.integers(0, 2**bits, (rows, groups)).astype(np.float32) if draw(st.booleans()) else None,
    }, rng.standard_normal((draw(st.integers(0, 3)), cols)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(matrices(), st.integers(1, 10))
def test_infer_equals_the_plain_sum_bit_for_bit(case, block_rows):
    values, x = case
    y = infer(compress_matrix(**values, block_rows=block_rows), x)
    assert y.dtype == np.float32
    assert y.tobytes() == plain(x=x, **values).tobytes()


def test_the_sum_is_the_matrix_product():
    rng = np.random.default_rng(3)
    codes, scale = rng.integers(0, 16, (20, 70)).astype(np.uint8), rng.random((20, 5)).astype(np.float32)
    codebook, x = np.linspace(-1, 1, 16, dtype=np.float32), rng.standard_normal((4, 70)).astype(np.float32)
    weights = np.repeat(scale.astype(float), 16, axis=1)[:, :70] * codebook.astype(float)[codes]
    y = infer(compress_matrix(codes, scale, codebook, group_size=16), x)
    assert np.allclose(y, x.astype(float) @ weights.T, rtol=0, atol=1e-5)


def test_infinite_inputs_come_out_as_ieee_says_without_a_warning():
    matrix = compress_matrix(np.array([[0, 1]], np.uint8), [[2.0]], [-1.0, 3.0], group_size=2)
    assert infer(matrix, [[np.inf, 0.0], [np.inf, np.inf], [0, 3e38]]).ravel().tolist() == pytest.approx(
        [-np.inf, np.nan, np.inf], nan_ok=True
    )


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (0, 8)])
def test_leading_dimensions_are_kept(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    matrix = compress_matrix(np.arange(40, dtype=np.uint8).reshape(5, 8) % 4, np.ones((5, 1)), [-1, 0, 1, 2], group_size=-1)
    y = infer(matrix, x)
    assert y.shape == (*shape[:-1], 5)
    assert y.reshape(-1, 5).tobytes() == infer(matrix, x.reshape(-1, 8)).tobytes()


def test_a_model_runs_layer_by_layer():
    """A network that computes exclusive or: h = relu([a + b, a + b − 1]), y = h0 − 2·h1."""
    hidden = compress_matrix(np.array([[1, 1], [1, 1]], np.uint8), np.ones((2, 1)), [0, 1], group_size=-1)
    out = compress_matrix(np.array([[1, 0]], np.uint8), np.ones((1, 1)), [-2, 1], group_size=-1)
    model = CompressedModel((CompressedLayer(hidden, np.array([0, -1], np.float32), "relu"), CompressedLayer(out)))
    assert infer(model, [[0, 0], [0, 1], [1, 0], [1, 1]]).tolist() == [[0], [1], [1], [0]]


def test_a_model_equals_its_plain_computation_bit_for_bit():
    rng = np.random.default_rng(5)
    sizes, layers, plain_layers = (24, 17, 9, 4), [], []
    for cols, rows in pairwise(sizes):
        codes = rng.integers(0, 8, (rows, cols)).astype(np.uint8)
        scale, bias = rng.random((rows, -(-cols // 8))).astype(np.float32), rng.standard_normal(rows).astype(np.float32)
        codebook = np.linspace(-1, 1, 8, dtype=np.float32)
        layers.append(CompressedLayer(compress_matrix(codes, scale, codebook, group_size=8, block_rows=5), bias, "relu"))
        plain_layers.append((codes, scale, codebook, bias))
    x = rng.standard_normal((3, 24)).astype(np.float32)
    y = x
    for codes, scale, codebook, bias in plain_layers:
        y = np.maximum(plain(codes, scale, codebook, 8, y) + bias, 0)
    assert infer(CompressedModel(tuple(layers)), x).tobytes() == y.tobytes()


def test_one_block_is_in_memory_at_a_time(monkeypatch):
    codes = (np.arange(50 * 32) * 7919 % 16).astype(np.uint8).reshape(50, 32)
    matrix = compress_matrix(codes, np.ones((50, 2)), np.arange(16.0), group_size=16, block_rows=8)
    seen = []

    def watch(x, levels, *rest):
        assert all(earlier() is None for earlier in seen), "an earlier block is still held"
        seen.append(weakref.ref(levels))
        sizes.append(len(levels))
        return exact_product(x, levels, *rest)

    sizes = []
    monkeypatch.setattr(huffman, "exact_product", watch)
    infer(matrix, np.ones(32))
    assert sizes == [8, 8, 8, 8, 8, 8, 2]


def test_code_bytes_are_the_bytes_of_the_streams():
    matrix = good()
    assert matrix.code_bytes == len(matrix.blocks[0]) + len(matrix.blocks[1])


def good(**changes):
    values = {
        "blocks": (compress(np.array([[0, 1], [1, 0]], np.uint8)), compress(np.array([[1, 1]], np.uint8))),
        "shape": (3, 2),
        "codebook": np.array([-1, 1], np.float32),
        "scale": np.ones((3, 1), np.float32),
        "group_size": 2,
    }
    return CompressedMatrix(**values | changes)


def test_what_does_not_fit_is_refused_when_the_matrix_is_made():
    bad = [
        ({"scale": np.ones((3, 2), np.float32)}, ShapeError, r"scale: expected shape \(3, 1\), got \(3, 2\)"),
        ({"scale": np.ones((3, 1))}, DTypeError, "scale: expected float32, got float64"),
        ({"scale": np.array([[1], [np.nan], [1]], np.float32)}, NumericsError, r"scale: .* at index \[1, 0\]"),
        ({"zero_point": np.ones((1, 1), np.float32)}, ShapeError, "zero_point: expected shape"),
        ({"codebook": np.ones((2, 2), np.float32)}, ShapeError, "codebook: expected 1…256 levels"),
        ({"codebook": np.ones(257, np.float32)}, ShapeError, "codebook: expected 1…256 levels"),
        ({"codebook": np.array([0, np.inf], np.float32)}, NumericsError, r"codebook: .* at index \[1\]"),
        ({"group_size": 0}, ShapeError, "group_size of 1…2, the inputs of a row, got 0"),
        ({"group_size": 3}, ShapeError, "group_size of 1…2, the inputs of a row, got 3"),
    ]
    for changes, error, message in bad:
        with pytest.raises(error, match=message):
            good(**changes)


def test_layers_and_models_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"bias: expected shape \(3,\), got \(2,\)"):
        CompressedLayer(good(), np.zeros(2, np.float32))
    with pytest.raises(SchemeError, match="activation: expected identity or relu, got 'gelu'"):
        CompressedLayer(good(), activation="gelu")
    with pytest.raises(ShapeError, match="layer 1: expected 3 inputs, got 2"):
        CompressedModel((CompressedLayer(good()), CompressedLayer(good())))


def test_codes_beyond_the_codebook_are_refused():
    with pytest.raises(NumericsError, match="expected codes below 2, got 2"):
        compress_matrix(np.array([[2]], np.uint8), [[1]], [0, 1], group_size=1)
    with pytest.raises(FormatError, match="block 0: expected codes below 1, got 1"):
        infer(good(codebook=np.zeros(1, np.float32)), np.zeros(2))
    with pytest.raises(ShapeError, match="expected a matrix of codes"):
        compress_matrix(np.zeros(3, np.uint8), [[1]], [0, 1], group_size=1)


def test_inputs_of_another_size_are_refused():
    for shape in [(), (3,), (2, 1)]:
        with pytest.raises(ShapeError, match=r"expected an input of shape \[…, 2\]"):
            infer(good(), np.zeros(shape))


def test_blocks_that_are_not_the_ones_that_belong_there_are_refused():
    first, second = good().blocks
    damaged = second[:-5] + bytes([second[-5] ^ 1]) + second[-4:]
    bad = [
        ((first,), FormatError, "expected blocks of 3 rows in all, got 2"),
        ((first, second, second), FormatError, "block 2: expected codes of at most 0 rows of 2"),
        ((first, compress("text")), FormatError, "block 1: expected codes"),
        ((first, compress(np.zeros((1, 3), np.uint8))), FormatError, "block 1: expected codes of at most 1 rows of 2, got"),
        ((first, compress(np.zeros(2, np.uint8))), FormatError, "block 1: expected codes"),
        ((first, damaged), IntegrityError, "checksum"),
        ((first, b""), FormatError, "expected a Huffman stream"),
    ]
    for blocks, error, message in bad:
        with pytest.raises(error, match=message) as caught:
            infer(good(blocks=blocks), np.zeros(2))
        assert isinstance(caught.value, KbitError)


def test_padding_of_the_last_group_changes_no_bit():
    rng = np.random.default_rng(9)
    levels, x = rng.standard_normal((4, 30)).astype(np.float32), rng.standard_normal((2, 30)).astype(np.float32)
    ones = np.ones((4, 1), np.float32)
    assert exact_product(x, levels, ones, 64).tobytes() == exact_product(x, levels, ones, 30).tobytes()
