"""Native products against the plain reference, bit for bit, on every instruction set of this machine."""

from typing import Any

import numpy as np
import pytest

from kbit import native
from kbit.core.errors import DTypeError, NumericsError, SchemeError, ShapeError
from kbit.core.scheme import Scheme
from kbit.encoders.nearest import encode
from kbit.kernels import PreparedMatrix, matmul_exact, matmul_fast, prepare
from kbit.tensor.blocks import expand_groups
from kbit.tensor.quantized import QuantizedTensor
from kbit.tensor.scales import scale_values

from .conftest import make

SHAPES = [(1, 1), (15, 31), (16, 32), (17, 33), (33, 100), (48, 257)]
SCHEMES = [
    *(f"nf{k}:g64" for k in range(1, 9)),
    *(f"int{k}:g32" for k in range(1, 9)),
    "int3:g16:asym",
    "int4:g48:asym:dq8",
    "int8:g-1",
    "nf3:g80:e4m3",
    "float6e3:g1024:dq8",
    "log7r4:g112",
    "quantile5:g16",
    "kmeans6:g128",
    "trellis1:g48",
    "trellis2:g128",
    "trellis3:g64:e4m3",
    "trellis4:g-1",
    "vq2d3:g96",
    "vq2d3:g192:e4m3",
    "vq1d3:g-1",
    *(f"vq{bits}d2:g64" for bits in ("1", "1.5", "2", "2.5", "3")),
    "nvq3d2:g128:dq8",
]


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_the_reference(isa: str, shape: tuple[int, int], text: str) -> None:
    quantized = make(shape, text)
    matrix = PreparedMatrix(quantized)
    for tokens in (1, 5):
        x = np.random.default_rng(tokens).standard_normal((tokens, shape[1])).astype(np.float32)
        np.testing.assert_array_equal(matrix.matmul(x, mode="exact"), matmul_exact(quantized, x))
        np.testing.assert_array_equal(matrix.matmul(x), matmul_fast(quantized, x, matrix.integer_codebook()))


@pytest.mark.parametrize(
    "text", ["nf2:g64", "nf3:g64", "int4:g128:asym", "nf7:g16", "int8:g-1", "trellis2:g64", "trellis4:g16", "vq2d3:g96", "vq3d2:g-1"]
)
@pytest.mark.parametrize("tokens", [1, 6])
def test_threads_and_instruction_sets_change_no_byte(text: str, tokens: int) -> None:
    shape = (600, 520)
    matrix = PreparedMatrix(make(shape, text))
    x = np.random.default_rng(0).standard_normal((tokens, shape[1])).astype(np.float32)
    before = native.isa()
    for mode in ("fast", "exact"):
        results = []
        for name in native.available_isas():
            native.set_isa(name)
            results += [matrix.matmul(x, mode=mode, threads=threads).tobytes() for threads in (1, 2, 3, 7, 16)]
        native.set_isa(before)
        assert len(set(results)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "nf1:g128",
        "nf4:g64",
        "int4:g64:asym",
        "int3:g16:asym",
        "nf6:g80",
        "int8:g-1",
        "trellis2:g64",
        "trellis3:g128",
        "vq2d3:g96",
        "vq2.5d2:g64",
    ],
)
def test_a_token_does_not_depend_on_its_batch(isa: str, text: str) -> None:
    matrix = PreparedMatrix(make((83, 520), text))
    x = np.random.default_rng(5).standard_normal((70, 520)).astype(np.float32)
    for mode in ("fast", "exact"):
        alone = np.concatenate([matrix.matmul(token[None], mode=mode) for token in x])
        for tokens in (2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 70):
            for threads in (1, 2):
                np.testing.assert_array_equal(matrix.matmul(x[:tokens], mode=mode, threads=threads), alone[:tokens])


@pytest.mark.parametrize("text", SCHEMES)
def test_exact_mode_equals_the_decoded_matrix(text: str) -> None:
    quantized = make((40, 200), text)
    x = np.random.default_rng(1).standard_normal((4, 200)).astype(np.float32)
    expected = x.astype(np.float64) @ quantized.dequantize().astype(np.float64).T
    magnitude = np.abs(x).astype(np.float64) @ np.abs(quantized.dequantize()).astype(np.float64).T
    error = np.abs(PreparedMatrix(quantized).matmul(x, mode="exact") - expected)
    assert (error <= 204 * np.finfo(np.float32).eps * magnitude + 1e-30).all()


@pytest.mark.parametrize("text", SCHEMES)
def test_fast_mode_stays_within_its_documented_bound(text: str) -> None:
    quantized = make((40, 200), text)
    matrix = PreparedMatrix(quantized)
    x = np.random.default_rng(1).standard_normal((4, 200)).astype(np.float32)
    book = matrix.integer_codebook()
    dims = quantized.scheme.dims
    level_miss = np.abs(integer_levels(book).reshape(dims, -1).T - quantized.levels.reshape(-1, dims)).max()
    group = int(str(book["activation_group"])) * dims
    half_step = np.empty_like(x)
    for i in range(0, 200, group):
        half_step[:, i : i + group] = np.abs(x[:, i : i + group]).max(axis=1, keepdims=True)
    half_step /= 254
    scales = np.abs(expand_groups(scale_values(quantized), quantized.scheme, (40, 200)))
    bound = half_step @ np.abs(quantized.dequantize()).T + (np.abs(x) + half_step) @ (scales * level_miss).T
    error = np.abs(matrix.matmul(x).astype(np.float64) - matrix.matmul(x, mode="exact"))
    assert (error <= bound * 1.001 + 1e-4).all()


def integer_levels(book: dict[str, Any]) -> np.ndarray:
    return np.asarray(book["base"] + book["step"] * (np.array(book["q"]) - book["centre"]))


def test_integer_grids_have_exact_codebooks() -> None:
    for k in range(1, 9):
        quantized = make((16, 64), f"int{k}:g64")
        book = PreparedMatrix(quantized).integer_codebook()
        np.testing.assert_array_equal(integer_levels(book), quantized.levels)


def test_rows_are_gathered_and_dequantized() -> None:
    quantized = make((37, 70), "nf5:g16:e4m3")
    matrix = PreparedMatrix(quantized)
    ids = np.array([36, 0, 17, 17, 5])
    np.testing.assert_array_equal(matrix.gather_rows(ids), quantized.dequantize()[ids])
    np.testing.assert_array_equal(matrix.dequantize(threads=3), quantized.dequantize())
    with pytest.raises(NumericsError, match="position 1 is outside 0…36"):
        matrix.gather_rows(np.array([0, 37]))
    with pytest.raises(NumericsError, match="position 0"):
        matrix.gather_rows(np.array([-1]))


def test_activations_that_are_not_finite_stay_visible() -> None:
    matrix = PreparedMatrix(make((20, 100), "nf4:g32"))
    for bad in (np.nan, np.inf, -np.inf):
        x = np.ones((2, 100), np.float32)
        x[1, 70] = bad
        for mode in ("fast", "exact"):
            y = matrix.matmul(x, mode=mode)
            assert np.isfinite(y[0]).all()
            assert not np.isfinite(y[1]).any()


def test_tiny_and_huge_activations_stay_finite() -> None:
    matrix = PreparedMatrix(make((20, 64), "int4:g32"))
    x = np.zeros((3, 64), np.float32)
    x[0, :], x[1, 3], x[2, 5] = 1e-42, 1e30, -1e-38
    assert np.isfinite(matrix.matmul(x)).all()
    assert (matrix.matmul(x)[0] == 0).all()


def test_memory_of_any_layout_is_accepted() -> None:
    matrix = PreparedMatrix(make((20, 64), "nf3:g64"))
    x = np.random.default_rng(2).standard_normal((8, 128)).astype(np.float32)
    for view in (x[::2, ::2], x[::-1, 64:], np.broadcast_to(x[0, :64], (4, 64)), np.asfortranarray(x[:, :64])):
        np.testing.assert_array_equal(matrix.matmul(view), matrix.matmul(np.ascontiguousarray(view)))
    raw = np.empty(20 * 64 // 4 * 3 + 5, np.uint8)
    quantized = make((20, 64), "nf3:g64")
    for shift in (1, 3):  # misaligned planes
        moved = raw[shift : shift + quantized.weight.size]
        moved[:] = quantized.weight
        parts = {**quantized.parts(), "weight": moved}
        other = PreparedMatrix(QuantizedTensor.from_parts(quantized.scheme, quantized.shape, parts))
        np.testing.assert_array_equal(other.matmul(x[:, :64]), matrix.matmul(x[:, :64]))


def test_stacks_are_prepared_matrix_by_matrix() -> None:
    weights = np.random.default_rng(3).standard_normal((3, 20, 40)).astype(np.float32)
    quantized = encode(weights, Scheme.parse("nf4:g32"), name="experts")
    x = np.random.default_rng(4).standard_normal((2, 40)).astype(np.float32)
    for matrix, single in zip(prepare(quantized), weights, strict=True):
        alone = PreparedMatrix(encode(single, Scheme.parse("nf4:g32"), name="expert"))
        np.testing.assert_array_equal(matrix.matmul(x), alone.matmul(x))
    with pytest.raises(ShapeError, match="takes stacks"):
        PreparedMatrix(quantized)


def test_a_group_that_outreaches_the_row_reaches_no_kernel() -> None:
    quantized = make((20, 48), "nf4:g64")
    assert quantized.scheme.text == "nf4:g-1"
    with pytest.raises(ShapeError, match="group size of at most the 48 columns of a row, or -1, got 64"):
        QuantizedTensor.from_parts(Scheme.parse("nf4:g64"), quantized.shape, quantized.parts())
    parts = quantized.weight, quantized.scale.reshape(-1).view(np.uint8), np.empty(0, np.float32), np.empty(0, np.uint8), quantized.levels
    for group_size in (64, 1 << 40, 0, -2, 40):
        with pytest.raises(ValueError, match="bad shape or levels"):
            native._kbit.PackedMatrix(20, 48, 4, group_size, 0, *parts)
    for group_size in (-1, 48):  # two ways to say it, one matrix
        assert native._kbit.PackedMatrix(20, 48, 4, group_size, 0, *parts).integer_codebook()["activation_group"] == 128


def test_bad_calls_are_typed() -> None:
    matrix = PreparedMatrix(make((20, 64), "nf4:g64"))
    with pytest.raises(DTypeError, match="expected float32 activations, got float64"):
        matrix.matmul(np.zeros((1, 64)))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"expected activations \[tokens, 64\], got \[1, 63\]"):
        matrix.matmul(np.zeros((1, 63), np.float32))
    with pytest.raises(SchemeError, match="mode must be one of fast, exact, got 'slow'"):
        matrix.matmul(np.zeros((1, 64), np.float32), mode="slow")  # type: ignore[arg-type]
    assert matrix.matmul(np.zeros((0, 64), np.float32)).shape == (0, 20)
