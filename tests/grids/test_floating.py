import numpy as np
import pytest

from kbit.core.scheme import Scheme
from kbit.grids.floating import float_levels


def positive(bits: int, exponent_bits: int) -> list[float]:
    levels = np.unique(float_levels(Scheme("float", bits, exponent_bits=exponent_bits)))
    assert np.array_equal(levels, -levels[::-1]), "both signs of every magnitude"
    return [float(level) for level in levels if level >= 0]


def decoded(code: int, exponent_bits: int, mantissa_bits: int) -> float:
    """A positive code read field by field, as the OCP MX specification states it."""
    bias = 2 ** (exponent_bits - 1) - 1
    exponent, mantissa = divmod(code, 2**mantissa_bits)
    if exponent == 0:
        return 2.0 ** (1 - bias) * mantissa / 2**mantissa_bits
    return 2.0 ** (exponent - bias) * (1 + mantissa / 2**mantissa_bits)


def test_e2m1_is_the_ocp_mx_type() -> None:
    assert positive(4, 2) == [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def test_e3m0_holds_powers_of_two() -> None:
    assert positive(4, 3) == [0, 0.25, 0.5, 1, 2, 4, 8, 16]


def test_e1_is_evenly_spaced() -> None:
    assert positive(2, 1) == [0, 2]
    assert positive(3, 1) == [0, 1, 2, 3]
    assert positive(5, 1) == [step / 4 for step in range(16)]


@pytest.mark.parametrize(
    ("bits", "exponent_bits", "largest", "smallest_normal", "smallest", "count"),
    [
        (6, 2, 7.5, 1.0, 0.125, 63),  # OCP MX v1.0, table 2: FP6 E2M3
        (6, 3, 28.0, 0.25, 0.0625, 63),  # FP6 E3M2
        (8, 4, 448.0, 2.0**-6, 2.0**-9, 253),  # OCP OFP8 v1.0, table 1: E4M3
        (8, 5, 57344.0, 2.0**-14, 2.0**-16, 247),  # E5M2
    ],
)
def test_ocp_types(bits: int, exponent_bits: int, largest: float, smallest_normal: float, smallest: float, count: int) -> None:
    magnitudes = positive(bits, exponent_bits)
    assert magnitudes[-1] == largest
    assert magnitudes[1] == smallest
    assert smallest_normal in magnitudes
    assert 2 * len(magnitudes) - 1 == count


@pytest.mark.parametrize(("bits", "exponent_bits"), [(b, e) for b in range(2, 9) for e in range(1, min(5, b - 1) + 1)])
def test_every_code_but_the_special_ones_is_a_level(bits: int, exponent_bits: int) -> None:
    special = {(8, 4): 1, (8, 5): 4}.get((bits, exponent_bits), 0)
    codes = range(2 ** (bits - 1) - special)
    assert positive(bits, exponent_bits) == [decoded(code, exponent_bits, bits - 1 - exponent_bits) for code in codes]


def test_8_bit_types_equal_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    for exponent_bits, dtype in ((4, torch.float8_e4m3fn), (5, torch.float8_e5m2)):
        every = torch.arange(256, dtype=torch.uint8).view(dtype).to(torch.float64)
        assert positive(8, exponent_bits) == sorted(set(every[every.isfinite()].abs().tolist()))
