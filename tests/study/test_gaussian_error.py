"""ρ is what the theory says of known quantizers, and orders data types as their makers do."""

import math

import pytest

from kbit.core.scheme import Scheme
from kbit.study.laws.gaussian_error import row_error, row_scheme, scheme_error
from kbit.study.rows import Row


def _row(**extra: float | str) -> Row:
    return Row("f", 10**9, "gptq", 3, 128, 3.125, "text", 2048, 9.0, "", extra)


def test_error_of_fine_grids_is_a_quarter_for_each_bit() -> None:
    errors = [scheme_error(Scheme.parse(f"int{bits}:g64")) for bits in (5, 6, 7)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_one_bit_of_a_long_row_is_known() -> None:
    # two levels ±s with the s of least error on normal weights: 1 − 2/π
    assert scheme_error(Scheme.parse("int1:g-1:mse")) == pytest.approx(1 - 2 / math.pi, abs=0.003)


def test_smaller_groups_and_fitted_levels_lose_less() -> None:
    by_group = [scheme_error(Scheme.parse(f"nf3:g{group}")) for group in (32, 64, 128, -1)]
    assert by_group == sorted(by_group)
    assert scheme_error(Scheme.parse("kmeans3:g64:mse")) < scheme_error(Scheme.parse("int3:g64:mse"))
    assert scheme_error(Scheme.parse("nf3:g64+imp+gptq")) == scheme_error(Scheme.parse("nf3:g64:mse"))


def test_scheme_of_a_row() -> None:
    assert row_scheme(_row()) == Scheme.parse("int3:g128:asym")
    assert row_scheme(_row(grid="nf")) == Scheme.parse("nf3:g128")
    assert row_scheme(_row(scheme="log3:g32")) == Scheme.parse("log3:g32")
    assert row_scheme(_row(scheme="of another tool")) is None
    assert row_error(_row(grid_mse=0.04)) == 0.04
    assert row_error(_row(scheme="of another tool")) is None
    assert row_error(_row(hidden_size=64)) == scheme_error(Scheme.parse("int3:g128:asym"), 64)
