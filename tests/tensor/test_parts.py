"""Parts and pruned codes as they are stored: shapes, what they decode to, and contents that no encoder writes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kbit.core.errors import FormatError, KbitError, NumericsError, ShapeError
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.tensor.blocks import rows_of_tiles
from kbit.tensor.parts import outlier_places
from kbit.tensor.pruned import fill_codes, filled_levels, pack_mask, pack_stream, stream_bytes, unpack_mask, unpack_stream
from kbit.tensor.quantized import QuantizedTensor, part_shapes
from kbit.tensor.scales import scale_values

ALL = "nf3:g16+prune60+outlier2+outliercol3+lowrank4"


def tensor(text: str, shape: tuple[int, ...] = (50, 67)) -> QuantizedTensor:
    return encode(np.random.default_rng(1).normal(size=shape).astype(np.float32), Scheme.parse(text))


@pytest.mark.parametrize("shape", [(50, 67), (16, 32), (3, 33, 40)])
def test_parts_have_the_shapes_that_follow_from_the_scheme(shape: tuple[int, ...]) -> None:
    value = tensor(ALL, shape)
    value.validate()
    assert {name: (part.shape, part.dtype) for name, part in value.parts().items()} == part_shapes(value.scheme, shape)
    again = QuantizedTensor.from_parts(value.scheme, shape, value.parts())
    assert np.array_equal(again.dequantize(), value.dequantize())
    assert sum(value.bits_breakdown().values()) == pytest.approx(value.bpw)


def test_a_stack_is_its_matrices() -> None:
    value = tensor(ALL, (3, 33, 40))
    assert np.array_equal(np.stack([matrix.dequantize() for matrix in value.matrices()]), value.dequantize())
    assert np.array_equal(np.stack([matrix.codes() for matrix in value.matrices()]), value.codes())
    assert np.array_equal(np.stack([matrix.kept() for matrix in value.matrices()]), value.kept())
    again = QuantizedTensor.stack(value.matrices()).parts()
    assert {name: part.tobytes() for name, part in again.items()} == {name: part.tobytes() for name, part in value.parts().items()}


def test_pruned_rows_are_decoded_in_pieces() -> None:
    value = tensor("int4:g16+prune50", (2077, 32))  # more rows than are decoded at once
    scale = rows_of_tiles(scale_values(value), 2077).repeat(16, axis=1)
    assert np.array_equal(value.dequantize(), np.where(value.kept(), value.levels[value.codes()] * scale, 0))


def test_decoded_weights_are_the_sum_of_the_parts() -> None:
    value = tensor("int4:g16+outlier2+outliercol3+lowrank4")
    bare = QuantizedTensor(Scheme.parse("int4:g16"), value.shape, value.weight, value.scale)
    expected = bare.dequantize().astype(np.float64)
    extra = value.extra
    row, col = outlier_places(extra["weight_outlier_count"], extra["weight_outlier_place"])
    expected[row, col] += extra["weight_outlier_value"].view(np.float16)
    for tile, line, lane in np.ndindex(extra["weight_column_value"].shape):
        if tile * 16 + lane < 50:
            expected[tile * 16 + lane, extra["weight_column_index"][line]] += extra["weight_column_value"].view(np.float16)[
                tile, line, lane
            ]
    left = extra["weight_lowrank_left"].transpose(0, 2, 1).reshape(-1, 4)[:50].astype(np.float64)
    expected += (left * extra["weight_lowrank_scale"]) @ extra["weight_lowrank_right"].astype(np.float64)
    np.testing.assert_allclose(value.dequantize(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", range(1, 9))
def test_streams_hold_codes_in_the_order_of_the_mask(bits: int) -> None:
    rng = np.random.default_rng(bits)
    scheme = Scheme.parse(f"int{max(bits, 2)}:g16+prune75") if bits > 1 else None
    kept = np.zeros((35, 44), np.bool_)
    np.put_along_axis(kept, np.argsort(rng.random(kept.shape), axis=1)[:, :11], True, axis=1)
    codes = np.where(kept, rng.integers(0, 1 << bits, kept.shape), 0).astype(np.uint8)
    mask, stream = pack_mask(kept), pack_stream(codes, kept, bits)
    assert np.array_equal(unpack_mask(mask, 35, 44), kept)
    digits = "".join(
        format(codes[tile * 16 + row, step * 4 + j], f"0{bits}b")[::-1]
        for tile in range(1)
        for step in range(11)
        for row in range(16)
        for j in range(4)
        if kept[tile * 16 + row, step * 4 + j]
    )
    first = "".join(format(byte, "08b")[::-1] for byte in stream[: -(-16 * 11 * bits // 8)])
    assert first.startswith(digits)
    if scheme is not None:
        assert stream.size == stream_bytes(scheme, 35, 44)
        assert np.array_equal(unpack_stream(stream, kept, scheme), codes)


@pytest.mark.parametrize("levels", [[-2, -1, 0, 1], [-1, 1], [0, 1, 2], [-3, -2]])
def test_filled_codes_mean_the_same_and_0(levels: list[float]) -> None:
    given = np.array(levels, np.float32)
    wide, inserted, zero = filled_levels(given)
    codes = np.arange(given.size, dtype=np.uint8)
    assert np.array_equal(wide[fill_codes(codes, np.ones(codes.shape, np.bool_), inserted, zero)], given)
    assert (wide[fill_codes(codes, np.zeros(codes.shape, np.bool_), inserted, zero)] == 0).all()
    assert (np.diff(wide) > 0).all()


@pytest.mark.parametrize(
    ("bits", "prune", "bpw"), [(4, "prune50", 3), (4, "prune2:4", 3), (8, "prune50", 5), (3, "prune75", 1.75), (4, "prune1:4", 2)]
)
def test_a_pruned_matrix_is_smaller(bits: int, prune: str, bpw: float) -> None:
    pruned, dense = tensor(f"int{bits}:g64+{prune}", (64, 128)), tensor(f"int{bits}:g64", (64, 128))
    assert pruned.bpw == bpw + 0.25 < dense.bpw
    share = 0.25 if prune in ("prune75", "prune1:4") else 0.5
    assert np.count_nonzero(pruned.kept()) == pruned.kept().size * share
    assert not pruned.dequantize()[~pruned.kept()].any()


def flip(array: Any) -> Any:
    array.reshape(-1)[0] ^= 1
    return array


HOSTILE: list[tuple[str, Callable[[Any], Any], type[KbitError], str]] = [
    ("weight_mask", flip, FormatError, "weights with codes in each row"),
    ("weight_mask", lambda a: np.full_like(a, 255), FormatError, "a mask of 0 beyond the matrix"),
    ("weight_mask", np.zeros_like, FormatError, "weights with codes in each row"),
    ("weight_outlier_count", lambda a: np.full_like(a, 255), FormatError, "outlier counts that add up to 67"),
    ("weight_outlier_place", np.zeros_like, FormatError, "ascending places, each once"),
    ("weight_outlier_place", lambda a: np.full_like(a, 255), FormatError, "got one in its padding"),
    ("weight_outlier_value", lambda a: np.full_like(a, 0x7E00), NumericsError, "finite numbers in weight_outlier_value"),
    ("weight_column_index", lambda a: a - 1000, FormatError, "ascend within 0…66"),
    ("weight_column_index", lambda a: a + 60, FormatError, "ascend within 0…66"),
    ("weight_column_index", lambda a: np.full_like(a, 3), FormatError, "ascend within 0…66"),
    ("weight_column_value", lambda a: np.full_like(a, 0x7C00), NumericsError, "finite numbers in weight_column_value"),
    ("weight_column_value", np.ones_like, FormatError, "pad the last tile of weight_column_value"),
    ("weight_lowrank_left", np.ones_like, FormatError, "pad the last tile of weight_lowrank_left"),
    ("weight_lowrank_scale", lambda a: np.full_like(a, np.inf), NumericsError, "finite numbers in weight_lowrank_scale"),
]


@pytest.mark.parametrize(("part", "change", "error", "message"), HOSTILE)
def test_contents_that_no_encoder_writes_are_refused(part: str, change: Callable[[Any], Any], error: type[KbitError], message: str) -> None:
    value = tensor(ALL)
    broken = QuantizedTensor.from_parts(value.scheme, value.shape, value.parts() | {part: change(value.parts()[part].copy())})
    with pytest.raises(error, match=message):
        broken.validate()


def test_codes_beyond_the_levels_are_refused() -> None:
    value = tensor("float4:g16+prune50")
    assert value.levels.size < 16
    changed = np.concatenate([np.full(4, 255, np.uint8), value.weight[4:]])
    with pytest.raises(FormatError, match="codes below"):
        QuantizedTensor.from_parts(value.scheme, value.shape, value.parts() | {"weight": changed}).validate()


def test_bits_behind_the_last_code_are_refused() -> None:
    value = tensor("int3:g16+prune50", (17, 34))  # the last tile: 17 codes of 3 bits
    changed = value.weight.copy()
    changed[-1] |= 0x80
    with pytest.raises(FormatError, match="0 behind them"):
        QuantizedTensor.from_parts(value.scheme, value.shape, value.parts() | {"weight": changed}).validate()


def test_a_ratio_holds_in_every_group() -> None:
    value = tensor("int4:g16+prune2:4", (16, 32))
    kept = value.kept()
    kept[0, :8] = [True] * 4 + [False] * 4
    with pytest.raises(FormatError, match="2 weights with codes in each 4"):
        QuantizedTensor.from_parts(value.scheme, value.shape, value.parts() | {"weight_mask": pack_mask(kept)}).validate()


def test_a_missing_part_is_named() -> None:
    value = tensor(ALL)
    parts = {name: part for name, part in value.parts().items() if name != "weight_outlier_place"}
    with pytest.raises(ShapeError, match="weight_outlier_place"):
        QuantizedTensor.from_parts(value.scheme, value.shape, parts)
