"""Every variant of fast mode against the plain reference, bit for bit, and what permits which."""

import numpy as np
import pytest

from kbit.core.errors import SchemeError
from kbit.kernels import PreparedMatrix, matmul_fast
from kbit.kernels.variants import FEW_TOKENS, TOKEN_CLASSES, VARIANTS, Kind, applicable

from .conftest import make

SHAPES = [(1, 1), (17, 33), (40, 200), (48, 257)]
SCHEMES = [
    "int1:g64",
    "int2:g64",
    "int2:g16",
    "int2:g48:asym",
    "int3:g32",
    "int4:g32",
    "int4:g-1:e4m3",
    "int5:g64:asym",
    "int7:g64",
    "nf1:g32",
    "nf2:g64",
    "nf3:g64",
    "int8:g64:dq8",
]


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_the_reference(isa: str, shape: tuple[int, int], text: str) -> None:
    quantized = make(shape, text)
    matrix = PreparedMatrix(quantized)
    for tokens in (1, 2, 3, FEW_TOKENS):
        x = np.random.default_rng(tokens).standard_normal((tokens, shape[1])).astype(np.float32)
        expected = matmul_fast(quantized, x, matrix.integer_codebook())
        for variant in matrix.possible_variants:
            for token_class in TOKEN_CLASSES:
                matrix.select(token_class, variant)
            np.testing.assert_array_equal(matrix.matmul(x), expected, err_msg=f"{variant}, {tokens} tokens")


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("grid", ["int", "nf"])
def test_the_native_part_permits_the_same(bits: int, grid: str) -> None:
    matrix = PreparedMatrix(make((16, 64), f"{grid}{bits}:g32"))
    assert matrix.kind == Kind(bits, grid == "int" or bits == 1, 32, 16, 64)
    assert matrix.possible_variants == applicable(matrix.kind)
    for number, variant in enumerate(VARIANTS):
        assert matrix.native.variant_possible(number) == (variant in matrix.possible_variants)


@pytest.mark.parametrize(
    ("text", "variant"), [("nf2:g64", "integer"), ("nf2:g64", "serial"), ("int5:g64", "serial"), ("int3:g48", "integer")]
)
def test_what_a_matrix_does_not_permit_is_refused(text: str, variant: str) -> None:
    matrix = PreparedMatrix(make((16, 64), text))
    before = matrix.variant("one")
    with pytest.raises(SchemeError, match=rf"expected a variant for a .*straight matrix of {text[-5]} bits .*, got '{variant}'"):
        matrix.select("one", variant)  # type: ignore[arg-type]
    assert matrix.variant("one") == before
    assert not matrix.native.select_variant(0, VARIANTS.index(variant))  # type: ignore[arg-type]


def test_names_that_do_not_exist_are_refused() -> None:
    matrix = PreparedMatrix(make((16, 64), "int2:g64"))
    with pytest.raises(SchemeError, match="expected a class of tokens of one, few, got 'many'"):
        matrix.select("many", "lookup")  # type: ignore[arg-type]
    with pytest.raises(SchemeError, match=r"expected a variant for a straight matrix of 2 bits .*, got 'fastest'"):
        matrix.select("one", "fastest")  # type: ignore[arg-type]
    assert not matrix.native.select_variant(2, 1)


def test_more_than_a_few_tokens_run_automatically() -> None:
    quantized = make((40, 200), "int2:g64")
    matrix = PreparedMatrix(quantized)
    matrix.select("few", "serial")
    x = np.random.default_rng(0).standard_normal((FEW_TOKENS + 1, 200)).astype(np.float32)
    np.testing.assert_array_equal(matrix.matmul(x), matmul_fast(quantized, x, matrix.integer_codebook()))
