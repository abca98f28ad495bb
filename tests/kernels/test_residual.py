"""Cascades: native products against plain numpy, byte for byte, on every instruction set."""

import itertools

import numpy as np
import pytest

from kbit.core.data_types import GRIDS
from kbit.core.errors import ShapeError
from kbit.core.scheme import Scheme
from kbit.kernels import PreparedMatrix
from kbit.kernels.parts import parts_product
from kbit.kernels.reference import matmul_exact
from kbit.tensor.packing import pack
from kbit.tensor.quantized import QuantizedTensor, part_shapes

from .test_parts import activations, both_modes, tensor

CASCADES = [grid for grid in GRIDS if grid not in ("nested", "trellis", "vq", "nvq")]


def drawn(text: str, shape: tuple[int, int], seed: int) -> QuantizedTensor:
    """Random codes, scales and codebooks of a scheme, without an encoder."""
    rng, scheme = np.random.default_rng(seed), Scheme.parse(text)
    bits = (scheme.bits, *scheme.spec.residual)
    parts = {}
    for name, (size, dtype) in part_shapes(scheme, shape).items():
        level = 0 if "residual" not in name else int(name.removeprefix("weight_residual")[0])
        n_levels = 1 << bits[level]
        if level or scheme.grid not in ("kmeans", "quantile"):
            one = (scheme, *scheme.residual_schemes())[level]
            n_levels = n_levels if scheme.grid in ("kmeans", "quantile") else len(fixed_levels(one))
        if name.endswith("scale"):
            values = rng.normal(size=size).astype(np.float16)
            values[-1, :, shape[0] - 16 * (size[0] - 1) :] = 0
            parts[name] = values.view(np.uint16)
        elif name.endswith("codebook"):
            parts[name] = np.sort(rng.normal(size=size)).astype(dtype)
        else:
            parts[name] = pack(rng.integers(0, n_levels, shape).astype(np.uint8), bits[level])
    value = QuantizedTensor.from_parts(scheme, shape, parts)
    value.validate()
    return value


def fixed_levels(scheme: Scheme) -> np.ndarray:
    from kbit.grids import levels_for

    return levels_for(Scheme.parse(scheme.text.split("+")[0]))


def pairs(grid: str) -> list[tuple[int, int]]:
    return [(first, second) for first, second in itertools.product(GRIDS[grid], repeat=2) if first + second <= 8]


@pytest.mark.parametrize("grid", CASCADES)
def test_every_pair_of_bits_is_the_reference(isa: str, grid: str) -> None:
    for seed, (first, second) in enumerate(pairs(grid)):
        value = drawn(f"{grid}{first}:g16+residual{second}", [(1, 16), (33, 100), (50, 67)][seed % 3], seed)
        for tokens in (1, 3):
            both_modes(value, tokens)


@pytest.mark.parametrize("text", ["int2:g16+residual2-1", "nf3:g-1+residual2", "float4:g32+residual2-2", "kmeans1:g48+residual1-1-1"])
def test_levels_read_the_same_activations(isa: str, text: str) -> None:
    for shape in ((33, 100), (129, 260)):
        value = drawn(text, shape, 0)
        for tokens in (1, 2, 5, 37):
            both_modes(value, tokens, threads=1 + tokens % 2)


@pytest.mark.parametrize(
    "text", ["int2:g16+residual2+outlier1+outliercol3+lowrank4", "nf2:g32+rotate+residual2+lowrank2", "int3+residual2"]
)
def test_levels_come_before_other_parts(isa: str, text: str) -> None:
    value = tensor(text, (40, 96))
    for tokens in (1, 3, 21):
        both_modes(value, tokens)
    assert PreparedMatrix(value).dequantize().tobytes() == value.dequantize().tobytes()


def test_products_are_added_in_pieces(isa: str) -> None:
    value = drawn("int2:g16+residual2-1", (16 * 20 + 3, 32), 1)
    both_modes(value, 600)  # more tokens than are added at once, and then more tiles than fit beside them
    wide = drawn("int2:g16+residual1", (16 * 4097 + 5, 16), 2)
    prepared, x = PreparedMatrix(wide), activations(1, 16)
    assert prepared.matmul(x, mode="exact").tobytes() == matmul_exact(wide, x).tobytes()


def test_rows_do_not_depend_on_their_batch_nor_on_threads() -> None:
    prepared, x = PreparedMatrix(drawn("nf2:g32+residual2-1", (200, 160), 3)), activations(40, 160)
    for mode in ("exact", "fast"):
        whole = prepared.matmul(x, mode=mode, threads=1)
        assert prepared.matmul(x, mode=mode, threads=3).tobytes() == whole.tobytes()
        for count in (1, 2, 4, 5, 17):
            assert prepared.matmul(x[:count], mode=mode).tobytes() == whole[:count].tobytes()


def test_a_product_is_the_sum_of_its_levels() -> None:
    value = tensor("int2:g16+residual2+lowrank2", (50, 67))
    x = activations(6, 67)
    levels = [QuantizedTensor(Scheme.parse("int2:g16"), value.shape, value.weight, value.scale), *value.residual_levels()]
    expected = sum(x.astype(np.float64) @ level.dequantize().T.astype(np.float64) for level in levels) + parts_product(value.extra, x, 50)
    np.testing.assert_allclose(PreparedMatrix(value).matmul(x, mode="exact"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("other", ["int2:g32", "int2:g16+outlier1", "int2:g16+rotate"])
def test_levels_that_do_not_fit_are_refused(other: str) -> None:
    native = PreparedMatrix(tensor("int2:g16", (40, 64))).native
    with pytest.raises(ValueError, match="beside the codes"):
        native.set_residual([PreparedMatrix(tensor(other, (40, 64))).native])
    with pytest.raises(ValueError, match="beside the codes"):
        native.set_residual([PreparedMatrix(tensor("int2:g16", (41, 64))).native])


def test_levels_live_as_long_as_the_matrix() -> None:
    value, x = drawn("int2:g16+residual2", (64, 64), 4), activations(3, 64)
    prepared = PreparedMatrix(value)
    expected = prepared.matmul(x)
    prepared.residual.clear()
    assert prepared.matmul(x).tobytes() == expected.tobytes()


def test_bytes_of_a_pass_count_all_levels() -> None:
    value = drawn("int2:g16+residual2-1", (64, 64), 5)
    assert PreparedMatrix(value).size_bytes == value.size_bytes
    with pytest.raises(ShapeError, match="weight_residual2"):
        QuantizedTensor.from_parts(
            value.scheme, value.shape, {k: v for k, v in value.parts().items() if not k.startswith("weight_residual2")}
        )
