"""Parts beside the codes: native products against plain numpy, byte for byte, on every instruction set."""

import numpy as np
import pytest
from numpy.typing import NDArray

from kbit.core.errors import ShapeError
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.kernels import PreparedMatrix, matmul_exact, matmul_fast
from kbit.kernels.parts import parts_product
from kbit.tensor.quantized import QuantizedTensor

SHAPES = [(1, 16), (16, 32), (33, 100), (50, 67), (129, 260)]
SIDES = ["outlier1", "outliercol3", "lowrank5", "outlier2+outliercol2+lowrank3"]


def tensor(text: str, shape: tuple[int, ...], seed: int = 0) -> QuantizedTensor:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=shape).astype(np.float32)
    weights[rng.random(shape) < 0.02] *= 9
    return encode(weights, Scheme.parse(text))


def activations(tokens: int, cols: int) -> NDArray[np.float32]:
    return np.random.default_rng(tokens).normal(size=(tokens, cols)).astype(np.float32)


def both_modes(quantized: QuantizedTensor, tokens: int, threads: int = 1) -> None:
    prepared, x = PreparedMatrix(quantized), activations(tokens, quantized.shape[1])
    exact, fast = (prepared.matmul(x, mode=mode, threads=threads) for mode in ("exact", "fast"))
    assert exact.tobytes() == matmul_exact(quantized, x).tobytes()
    assert fast.tobytes() == matmul_fast(quantized, x, prepared.integer_codebook()).tobytes()


@pytest.mark.parametrize("parts", SIDES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sides_are_the_reference(isa: str, parts: str, shape: tuple[int, int]) -> None:
    quantized = tensor(f"int3:g16+{parts}", shape)
    for tokens in (1, 3, 5, 37):
        both_modes(quantized, tokens, threads=1 + tokens % 2)


@pytest.mark.parametrize(
    "text",
    [
        "int4:g16+rotate+outlier1+outliercol3+lowrank4",
        "nf3:g32+rotate+prune50+outlier1",
        "vq2d2:g64+lowrank5",
        "vq2d3:g96+rotate+lowrank2",
        "trellis2:g32+lowrank3",
        "trellis3:g16+rotate+lowrank4",
    ],
)
def test_parts_see_what_the_codes_see(isa: str, text: str) -> None:
    for shape in ((33, 96), (20, 192)):
        quantized = tensor(text, shape)
        for tokens in (1, 3, 21):
            both_modes(quantized, tokens, threads=1 + tokens % 2)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("grid", ["int", "nf"])
def test_pruned_is_the_reference(isa: str, bits: int, grid: str) -> None:
    for shape, prune in (((33, 100), "prune1:4"), ((50, 67), "prune60"), ((17, 32), "prune80")):
        quantized = tensor(f"{grid}{bits}:g32+{prune}", shape, bits)
        for tokens in (1, 2, 9):
            both_modes(quantized, tokens)


@pytest.mark.parametrize("scales", ["e4m3", "dq8"])
def test_pruned_tiles_have_their_scales(isa: str, scales: str) -> None:
    both_modes(tensor(f"float4:g16:{scales}+prune2:4+outlier1+lowrank2", (400, 700)), 2)  # more tiles than are filled up at once


def test_tokens_do_not_depend_on_their_batch_nor_on_threads() -> None:
    quantized = tensor("nf4:g32+prune50+outlier1+outliercol2+lowrank4", (200, 160))
    prepared, x = PreparedMatrix(quantized), activations(40, 160)
    for mode in ("exact", "fast"):
        whole = prepared.matmul(x, mode=mode, threads=1)
        assert prepared.matmul(x, mode=mode, threads=3).tobytes() == whole.tobytes()
        for count in (1, 2, 3, 4, 5, 17):
            assert prepared.matmul(x[:count], mode=mode).tobytes() == whole[:count].tobytes()


@pytest.mark.parametrize(
    "text",
    [
        "int4:g16+outlier2+outliercol3+lowrank4",
        "nf3:g16+prune50+outlier1",
        "int5:g16+prune1:2",
        "int4:g16+truncate1",
        "int4:g16+rotate+outlier2+lowrank4",
        "vq2d2:g64+lowrank4",
        "trellis2:g16+lowrank4",
    ],
)
@pytest.mark.parametrize("shape", [(50, 67), (20, 96)])
def test_rows_are_those_of_the_tensor(isa: str, text: str, shape: tuple[int, int]) -> None:
    quantized = tensor(text, shape)
    assert PreparedMatrix(quantized).dequantize().tobytes() == quantized.dequantize().tobytes()


def test_parts_are_what_the_decoded_weights_add() -> None:
    quantized = tensor("int4:g16+outlier2+outliercol3+lowrank4", (50, 67))
    bare = type(quantized)(Scheme.parse("int4:g16"), quantized.shape, quantized.weight, quantized.scale)
    x = activations(6, 67)
    expected = x.astype(np.float64) @ (quantized.dequantize().astype(np.float64) - bare.dequantize()).T
    np.testing.assert_allclose(parts_product(quantized.extra, x, 50), expected, rtol=1e-4, atol=1e-4)


def test_parts_that_do_not_fit_are_refused() -> None:
    quantized = tensor("int4:g16+outlier2", (50, 67))
    place = quantized.extra["weight_outlier_place"].copy()
    count = quantized.extra["weight_outlier_count"].copy()
    count[0, 0] += 1
    for extra in ({"weight_outlier_count": count}, {"weight_outlier_place": np.full_like(place, 255)}):
        broken = type(quantized).from_parts(quantized.scheme, quantized.shape, quantized.parts() | extra)
        with pytest.raises(ShapeError, match="beside the codes"):
            PreparedMatrix(broken)
