from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from kbit.core.errors import DTypeError, FormatError, NumericsError, SchemeError, ShapeError
from kbit.core.scheme import KEEP, Scheme
from kbit.grids import levels_for
from kbit.tensor.blocks import code_cols, expand_groups
from kbit.tensor.packing import pack, reference_unpack
from kbit.tensor.quantized import QuantizedTensor, pad_codebook, part_shapes, stored_vectors
from kbit.tensor.scales import scale_values

SCHEMES = ["int4:g64", "int3:g48:asym", "nf5:g-1:dq8", "kmeans3:g64:e4m3", "quantile2:g16:dq8", "vq2d3:g96:dq8", "vq2d2:g64:e4m3"]


def tensor(text, shape=(33, 100), seed=0):
    """A tensor of random contents that an encoder could have written."""
    rng = np.random.default_rng(seed)
    scheme = Scheme.parse(text).for_row(shape[-1])
    count = shape[0] if len(shape) == 3 else 1
    rows, cols = shape[-2:]
    parts = {}
    for name, (part_shape, dtype) in part_shapes(scheme, shape).items():
        parts[name] = np.zeros(part_shape, dtype)
    parts["weight"] = np.concatenate(
        [pack(rng.integers(0, 1 << scheme.bits, (rows, code_cols(scheme, cols))).astype(np.uint8), scheme.bits) for _ in range(count)]
    )
    used = np.arange(parts["weight_scale"].shape[-3] * 16).reshape(-1, 1, 16) < rows
    info = {"fp16": 0x7C00, "e4m3": 0x7F, "dq8": 0x7F}[scheme.scale_dtype]
    parts["weight_scale"][...] = rng.integers(0, info, parts["weight_scale"].shape) * used
    if "weight_super_scale" in parts:
        parts["weight_super_scale"][...] = rng.random(parts["weight_super_scale"].shape) + 0.5
    if "weight_zero" in parts:
        parts["weight_zero"][...] = rng.integers(0, 1 << scheme.bits, parts["weight_zero"].shape) * used
    if "weight_codebook" in parts:
        levels = rng.standard_normal(parts["weight_codebook"].shape)
        parts["weight_codebook"][...] = np.sort(levels) if scheme.dims == 1 else stored_vectors(levels.astype(np.float32))
    return QuantizedTensor.from_parts(scheme, shape, parts)


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("shape", [(33, 100), (2, 17, 65), (1, 1)])
def test_parts_round_trip_and_validate(text, shape):
    value = tensor(text, shape)
    value.validate()
    again = QuantizedTensor.from_parts(value.scheme, shape, value.parts())
    assert list(again.parts()) == list(part_shapes(value.scheme, shape))
    assert all(again.parts()[name] is part for name, part in value.parts().items())


def test_shapes_of_parts():
    shapes = part_shapes(Scheme.parse("int3:g48:asym:dq8"), (5, 33, 100))
    assert shapes == {
        "weight": ((5 * 3 * 4 * 64 * 3,), np.uint8),
        "weight_scale": ((5, 3, 3, 16), np.int8),
        "weight_super_scale": ((5, 3), np.float32),
        "weight_zero": ((5, 3, 3, 16), np.uint8),
    }
    shapes = part_shapes(Scheme.parse("kmeans4:e4m3"), (16, 64))
    assert shapes["weight_super_scale"] == ((1,), np.float32)
    assert shapes["weight_codebook"] == ((16,), np.float32)
    assert shapes["weight_scale"] == ((1, 1, 16), np.uint8)
    assert part_shapes(Scheme.parse("nf4"), (16, 64))["weight_scale"][1] == np.uint16


def test_scheme_16_has_no_parts():
    with pytest.raises(SchemeError):
        part_shapes(KEEP, (4, 4))


@pytest.mark.parametrize("text", SCHEMES)
def test_dequantize_is_the_formula(text):
    value = tensor(text)
    rows, cols = value.shape
    levels = value.levels[reference_unpack(value.weight, rows, code_cols(value.scheme, cols), value.scheme.bits)]
    levels = levels.reshape(rows, -1)[:, :cols]
    if value.zero_point is not None:
        levels = levels - expand_groups(value.zero_point, value.scheme, (rows, cols)).astype(np.float32)
    expected = levels * expand_groups(scale_values(value), value.scheme, (rows, cols))
    assert expected.dtype == np.float32
    assert np.array_equal(value.dequantize(), expected)
    assert np.array_equal(value.dequantize(np.float64), expected.astype(np.float64))


def test_dequantize_in_pieces_equals_all_at_once():
    value = tensor("int3:g32:asym", (2100, 33))
    levels = value.levels[value.codes()] - expand_groups(value.zero_point, value.scheme, value.shape)
    assert np.array_equal(value.dequantize(), levels * expand_groups(scale_values(value), value.scheme, value.shape))


def test_dequantize_to_integers_is_refused():
    with pytest.raises(DTypeError, match="floating"):
        tensor("int4").dequantize(np.int8)


@pytest.mark.parametrize("text", SCHEMES)
def test_matrices_of_a_stack(text):
    value = tensor(text, (3, 17, 65))
    matrices = value.matrices()
    assert [matrix.shape for matrix in matrices] == [(17, 65)] * 3
    assert np.array_equal(np.stack([matrix.dequantize() for matrix in matrices]), value.dequantize())
    assert np.array_equal(np.stack([matrix.codes() for matrix in matrices]), value.codes())
    assert all(np.shares_memory(matrix.weight, value.weight) for matrix in matrices)
    assert tensor(text).matrices()[0].shape == (33, 100)


def test_levels_of_a_fixed_grid_follow_from_the_scheme():
    value = tensor("nf4")
    assert np.array_equal(value.levels, levels_for(value.scheme))
    assert not value.levels.flags.writeable


def test_levels_of_a_codebook_leave_out_its_padding():
    levels = np.array([-1, 0.25, 1], np.float32)
    padded = pad_codebook(levels, 3)
    assert padded.tolist() == [-1, 0.25, 1, 1, 1, 1, 1, 1]
    value = replace(tensor("kmeans3"), codebook=padded)
    assert np.array_equal(value.levels, levels)
    with pytest.raises(ShapeError, match="1…8 levels"):
        pad_codebook(np.zeros(9, np.float32), 3)


def test_accounting_is_of_the_bytes_stored():
    value = tensor("int4:g64", (32, 128))
    assert value.bpw == 4 + 16 / 64
    assert value.bits_breakdown() == {"codes": 4, "scales": 0.25, "zero_points": 0, "codebook": 0, "padding": 0}


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("shape", [(33, 100), (2, 17, 65), (1, 1)])
def test_breakdown_adds_up(text, shape):
    value = tensor(text, shape)
    stored = sum(part.nbytes for part in value.parts().values())
    assert value.size_bytes == stored
    assert value.bpw == stored * 8 / np.prod(shape)
    assert sum(value.bits_breakdown().values()) == pytest.approx(value.bpw, rel=1e-12)
    assert value.bits_breakdown()["codes"] == value.scheme.bits * code_cols(value.scheme, shape[-1]) / shape[-1]
    assert all(bits >= 0 for bits in value.bits_breakdown().values())


def test_it_is_frozen():
    with pytest.raises(FrozenInstanceError):
        tensor("int4").scheme = Scheme.parse("int3")


@pytest.mark.parametrize("name", ["weight", "weight_scale", "weight_super_scale", "weight_zero"])
def test_missing_unexpected_misshapen_parts(name):
    value = tensor("int4:g64:asym:dq8")
    parts = value.parts()
    with pytest.raises(ShapeError, match="expected the parts"):
        QuantizedTensor.from_parts(value.scheme, value.shape, {key: part for key, part in parts.items() if key != name})
    with pytest.raises(ShapeError, match=name):
        QuantizedTensor.from_parts(value.scheme, value.shape, {**parts, name: parts[name][..., :-1]})
    with pytest.raises(DTypeError, match=name):
        QuantizedTensor.from_parts(value.scheme, value.shape, {**parts, name: parts[name].astype(np.float64)})
    with pytest.raises(ShapeError, match="expected the parts"):
        QuantizedTensor.from_parts(value.scheme, value.shape, {**parts, "weight_codebook": np.zeros(16, np.float32)})


def test_another_shape_does_not_fit():
    value = tensor("int4:g64")
    for shape in [(100, 33), (33, 200), (2, 33, 100), (0, 100), (1 << 40, 1 << 40)]:
        with pytest.raises(ShapeError):
            QuantizedTensor.from_parts(value.scheme, shape, value.parts())


def changed(value, name, index, content):
    parts = {key: part.copy() for key, part in value.parts().items()}
    parts[name].reshape(-1)[index] = content
    return QuantizedTensor.from_parts(value.scheme, value.shape, parts)


@pytest.mark.parametrize(
    ("text", "name", "content"),
    [
        ("int4", "weight_scale", 0x7C00),  # Inf
        ("int4", "weight_scale", 0xFE01),  # NaN
        ("int4:e4m3", "weight_scale", 0x7F),
        ("int4:e4m3", "weight_scale", 0xFF),
        ("int4:e4m3", "weight_super_scale", np.nan),
        ("int4:dq8", "weight_super_scale", np.inf),
        ("int4:dq8", "weight_super_scale", -1.0),
        ("int4:dq8", "weight_super_scale", 3.4e38),  # finite, but no scale under it is
        ("kmeans3", "weight_codebook", np.nan),
        ("kmeans3", "weight_codebook", 100.0),  # does not ascend
    ],
)
def test_numbers_no_encoder_writes(text, name, content):
    bad = changed(tensor(text), name, 0, content)
    with pytest.raises(NumericsError):
        bad.validate()


def test_a_scale_that_is_not_finite_is_named_by_its_place():
    with pytest.raises(NumericsError, match=r"nan at \[0, 1, 3\] of \[3, 2, 16\]"):
        changed(tensor("int4"), "weight_scale", 16 + 3, 0x7E00).validate()


def test_codebook_with_a_repeat_inside():
    value = replace(tensor("kmeans2"), codebook=np.array([0, 0, 1, 2], np.float32))
    with pytest.raises(NumericsError, match="ascend"):
        value.validate()
    value = replace(tensor("kmeans2"), codebook=np.array([0, 1, 2, 1], np.float32))
    with pytest.raises(NumericsError, match="ascend"):
        value.validate()


def test_code_beyond_the_codebook():
    value = tensor("kmeans3", (2, 17, 65))
    levels = np.array([-1, -0.5, 0, 0.5, 1], np.float32)
    bad = replace(value, codebook=pad_codebook(levels, 3))
    with pytest.raises(FormatError, match="codes below 5"):
        bad.validate()


def test_padding_that_is_not_zero():
    value = tensor("int4:asym")
    with pytest.raises(FormatError, match="padding"):
        changed(value, "weight", -1, 1).validate()
    for name in ("weight_scale", "weight_zero"):
        with pytest.raises(FormatError, match="pad the last tile"):
            changed(value, name, -1, 1).validate()


def test_zero_point_beyond_the_levels():
    with pytest.raises(FormatError, match="zero points below 8"):
        changed(tensor("int3:asym"), "weight_zero", 0, 8).validate()


def test_subnormal_scales_are_kept():
    value = changed(tensor("int4"), "weight_scale", 0, 0x8001)
    value.validate()
    assert scale_values(value).reshape(-1)[0] == -(2.0**-24)
