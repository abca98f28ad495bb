"""Cascades as they are stored: shapes, what they decode to, fewer levels of them, and contents that no encoder writes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kbit.core.errors import FormatError, KbitError, NumericsError, SchemeError
from kbit.core.scheme import Scheme
from kbit.encoders import encode
from kbit.tensor.nested import coarse_scheme, first_bits
from kbit.tensor.quantized import QuantizedTensor, part_shapes
from kbit.tensor.residual import RESIDUAL_SUFFIXES

ALL = "kmeans2:g16+residual2-1+outlier2+lowrank2"


def tensor(text: str, shape: tuple[int, ...] = (33, 40)) -> QuantizedTensor:
    return encode(np.random.default_rng(1).normal(size=shape).astype(np.float32), Scheme.parse(text))


@pytest.mark.parametrize("text", [ALL, "nf2:g-1+residual3", "int1:g16+successive1-1-1", "quantile2:g32+successive2"])
@pytest.mark.parametrize("shape", [(33, 40), (16, 32), (3, 20, 50)])
def test_arrays_follow_from_the_scheme(text: str, shape: tuple[int, ...]) -> None:
    value = tensor(text, shape)
    value.validate()
    assert {name: (part.shape, part.dtype) for name, part in value.parts().items()} == part_shapes(value.scheme, shape)
    again = QuantizedTensor.from_parts(value.scheme, shape, value.parts())
    assert np.array_equal(again.dequantize(), value.dequantize())
    breakdown = value.bits_breakdown()
    assert sum(breakdown.values()) == pytest.approx(value.bpw)
    assert breakdown["codes"] == pytest.approx(value.scheme.bits + sum(value.scheme.spec.residual))
    groups = -(-shape[-1] // (shape[-1] if value.scheme.group_size == -1 else value.scheme.group_size))
    assert breakdown["scales"] == pytest.approx((1 + len(value.scheme.spec.residual)) * 16 * groups / shape[-1])


def test_a_stack_is_its_matrices() -> None:
    value = tensor(ALL, (3, 33, 40))
    assert np.array_equal(np.stack([matrix.dequantize() for matrix in value.matrices()]), value.dequantize())
    again = QuantizedTensor.stack(value.matrices()).parts()
    assert {name: part.tobytes() for name, part in again.items()} == {name: part.tobytes() for name, part in value.parts().items()}


def test_decoded_weights_are_the_sum_of_the_levels() -> None:
    value = tensor("kmeans2:g16+residual2-1", (2077, 32))  # more rows than are decoded at once
    first = QuantizedTensor(Scheme.parse("kmeans2:g16"), value.shape, value.weight, value.scale, codebook=value.codebook)
    total = first.dequantize()
    for level in value.residual_levels():
        total = total + level.dequantize()
    assert np.array_equal(value.dequantize(), total)


@pytest.mark.parametrize("word", ["residual", "successive"])
def test_first_levels_are_a_tensor(word: str) -> None:
    value = tensor(f"nf2:g16+{word}2-1")
    two, four = first_bits(value, 2), first_bits(value, 4)
    assert [one.scheme.text.replace(":mse", "") for one in (two, four)] == ["nf2:g16", f"nf2:g16+{word}2"]
    assert np.array_equal(four.dequantize(), two.dequantize() + value.residual_levels()[0].dequantize())
    assert first_bits(value, 5).dequantize().tobytes() == value.dequantize().tobytes()
    for one in (two, four):
        one.validate()
    assert not set(RESIDUAL_SUFFIXES) & set(two.parts())


def test_other_parts_stay_with_the_first_levels() -> None:
    value = tensor("nf2:g16+residual2-1+outlier2+lowrank2")
    assert coarse_scheme(value.scheme, 4).text == "nf2:g16+residual2+outlier2+lowrank2"
    assert coarse_scheme(value.scheme, 2).parts == ("outlier2", "lowrank2")
    first_bits(value, 2).validate()


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_levels_are_taken_whole(bits: int) -> None:
    with pytest.raises(SchemeError, match=f"have 2, 4, 5 bits together, got {bits}"):
        first_bits(tensor("nf2:g16+residual2-1"), bits)


def change(name: str, edit: Callable[[Any], None]) -> Callable[[dict[str, Any]], None]:
    return lambda parts: edit(parts[name])


def put(at: Any, value: Any) -> Callable[[Any], None]:
    return lambda array: array.__setitem__(at, value)


@pytest.mark.parametrize(
    ("text", "edit", "error", "message"),
    [
        (
            "nf2:g16+residual2",
            change("weight_residual1_scale", put((0, 0, 0), 0x7C00)),
            NumericsError,
            "residual level 1: expected finite scales",
        ),
        (
            "nf2:g16+residual2",
            change("weight_residual1_scale", put((-1, 0, 1), 0x3C00)),
            FormatError,
            "residual level 1: expected 0 in the rows",
        ),
        (
            "nf2:g16+residual2-1",
            change("weight_residual2", put(-1, 0xFF)),
            FormatError,
            "residual level 2: expected codes below 2 and padding of 0",
        ),
        (
            "kmeans2:g16+residual2",
            change("weight_residual1_codebook", put(0, np.nan)),
            NumericsError,
            "residual level 1: expected a codebook",
        ),
        (
            "kmeans2:g16+residual2",
            change("weight_residual1_codebook", put(0, 9)),
            NumericsError,
            "residual level 1: expected a codebook of asc",
        ),
        (
            "kmeans2:g16+residual2",
            change("weight_residual1_codebook", put(slice(None), 1)),
            FormatError,
            "residual level 1: expected codes below 1",
        ),
    ],
)
def test_levels_that_no_encoder_writes(text: str, edit: Callable[[dict[str, Any]], None], error: type[KbitError], message: str) -> None:
    value = tensor(text)
    parts = {name: part.copy() for name, part in value.parts().items()}
    edit(parts)
    with pytest.raises(error, match=message):
        QuantizedTensor.from_parts(value.scheme, value.shape, parts).validate()
