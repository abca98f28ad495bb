"""Words of parts: their text, their numbers, and how many of each a matrix holds."""

from fractions import Fraction

import pytest

from kbit.core.errors import SchemeError
from kbit.core.parts import read_parts
from kbit.core.scheme import Scheme


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("int3:g64+imp+gptq+outlier0.50+lowrank08", "int3:g64+imp+gptq+outlier0.5+lowrank8"),
        ("nf4+prune50.0", "nf4:g64+prune50"),
        ("int4+prune2:4+outliercol1", "int4:g64+prune2:4+outliercol1"),
        ("int4:g-1+truncate0.25+outlier20+lowrank0.250b", "int4:g-1+truncate0.25+outlier20+lowrank0.25b"),
        ("kmeans3+outlier0.1+outliercol10", "kmeans3:g64+outlier0.1+outliercol10"),
        ("int3+rotate+imp+gptq+bias+prune50+lowrank8", "int3:g64+rotate+imp+gptq+bias+prune50+lowrank8"),
        ("trellis2:g128+imp+gptq+lowrank4", "trellis2:g128+imp+gptq+lowrank4"),
        ("int2:mse+imp+gptq+residual2", "int2:g64+imp+gptq+residual2"),
        ("int2:g64:mse+residual2-1+outlier1+lowrank4", "int2:g64+residual2-1+outlier1+lowrank4"),
        ("nf1+residual1-1-1", "nf1:g64+residual1-1-1"),
        ("nf3:g32:mse+successive2-1", "nf3:g32:mse+successive2-1"),
        ("int2+hqq+actorder+gptq+successive2", "int2:g64+hqq+actorder+gptq+successive2"),
        ("float4e3+rotate+residual3", "float4e3:g64+rotate+residual3"),
        ("vq2.5d2+lowrank0.5b", "vq2.5d2:g64+lowrank0.5b"),
    ],
)
def test_a_text_has_one_form(text: str, canonical: str) -> None:
    scheme = Scheme.parse(text)
    assert scheme.text == canonical
    assert Scheme.parse(canonical) == scheme == Scheme.from_json(scheme.to_json())
    assert scheme.for_row(32).parts == scheme.parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int4+outlier", "expected a part with its number, such as 'outlier0.5'"),
        ("int4+outlier0", "expected outlier with a number of percent in 0.01…20"),
        ("int4+outlier21", "in 0.01…20"),
        ("int4+outlier1e1", "in 0.01…20"),
        ("int4+lowrank8+outlier1", "expected parts in the order outlier, lowrank, got lowrank, outlier"),
        ("int4+outlier1+outlier2", "part 'outlier' is given twice"),
        ("int4+outlier1+gptq", "expected methods before parts in scheme 'int4+outlier1+gptq', got 'gptq' after 'outlier1'"),
        ("int4+prune4:2", "expected pruneN:M with 1 ≤ N < M ≤ 128"),
        ("int4+prune100", "expected prune with a number of percent in 1…99"),
        ("int4+prune50+truncate1", "got both"),
        ("int4+lowrank0", "expected lowrank with a rank in 1…4096"),
        ("int4+lowrank9b", "expected lowrank with a rank in 1…4096"),
        ("int4:outlier1", "'outlier1' is a part in scheme 'int4:outlier1': expected it at the end after a '+'"),
        ("int4:asym+prune50", "expected a scheme without 'asym'"),
        ("int4+actorder+gptq+prune50", "without 'actorder'"),
        ("int2+prune50", "no less than its codes save"),
        ("int1+prune99", "no less than its codes save"),
        ("kmeans8+prune50", "at most 7 bits with pruning"),
        ("vq2d2+prune50", "codes of the vq grid are chosen together"),
        ("nvq3d2+truncate1", "codes of the nvq grid are chosen together"),
        ("trellis2+prune2:4", "codes of the trellis grid are chosen together"),
        ("trellis3+outlier1", "expected no part but 'lowrank'"),
        ("vq2d3+outliercol1+lowrank4", "expected no part but 'lowrank'"),
        ("nested8+lowrank8", "nested codes are read at fewer bits too"),
        ("nested4+prune50", "nested codes are read at fewer bits too"),
        ("int2+residual", "expected a part with its number"),
        ("int2+residual0", "expected residual with the bits of one to 3 levels, such as residual2 or residual2-1"),
        ("int2+residual9", "expected residual with the bits of one to 3 levels"),
        ("int2+residual2-", "expected residual with the bits of one to 3 levels"),
        ("int2+residual1-1-1-1", "expected residual with the bits of one to 3 levels"),
        ("int2+successive2.5", "expected successive with the bits of one to 3 levels, such as successive2"),
        ("int2+residual2+successive2", "expected 'residual' or 'successive', got both"),
        ("int2+outlier1+residual2", "expected parts in the order residual, outlier"),
        ("int5+residual4", "at most 8 bits together, got 9"),
        ("float4+residual1", "grid 'float' is defined for 2…8 bits, got 1"),
        ("int4:asym+residual2", "expected neither 'asym', 'e4m3' nor 'dq8'"),
        ("int4:e4m3+residual2", "expected neither 'asym', 'e4m3' nor 'dq8'"),
        ("int4:dq8+successive2", "expected neither 'asym', 'e4m3' nor 'dq8'"),
        ("int4+prune50+residual2", "expected no pruning nor truncation"),
        ("int4+truncate1+residual2", "expected no pruning nor truncation"),
        ("int2+actorder+gptq+residual2", "expected no hqq nor actorder"),
        ("int2+hqq+residual2", "expected no hqq nor actorder"),
        ("int2+successive2+outlier1", "expected no other part"),
        ("vq2d2+residual2", "codes of the vq grid are chosen together"),
        ("trellis2+successive2", "codes of the trellis grid are chosen together"),
        ("nested4+residual2", "nested codes are read at fewer bits too"),
        ("16+outlier1", "expected a grid and its bits first"),
    ],
)
def test_what_is_no_part_is_answered(text: str, message: str) -> None:
    with pytest.raises(SchemeError) as caught:
        Scheme.parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("percent", ["0.01", "0.5", "1", "7.25", "20"])
def test_shares_round_halves_upwards(percent: str) -> None:
    spec = read_parts((f"outlier{percent}", f"outliercol{percent}"))
    for rows, cols in ((1, 16), (33, 100), (4096, 11008)):
        exact = Fraction(percent) * rows * cols / 100
        assert spec.outliers(rows, cols) == max(int(exact + Fraction(1, 2)), 1)
        assert spec.columns(cols) == max(int(Fraction(percent) * cols / 100 + Fraction(1, 2)), 1)


def test_kept_weights_of_a_row() -> None:
    assert [read_parts(("prune50",)).kept(cols) for cols in (1, 2, 7, 64)] == [1, 1, 3, 32]
    assert [read_parts(("prune2:4",)).kept(cols) for cols in (1, 3, 4, 7, 64)] == [1, 2, 2, 4, 32]
    assert read_parts(()).kept(9) == 9


@pytest.mark.parametrize(("rows", "cols"), [(2048, 2048), (256, 688), (100, 50)])
def test_a_budget_of_bits_is_kept(rows: int, cols: int) -> None:
    rank = read_parts(("lowrank0.5b",)).ranks(rows, cols)
    bits = lambda rank: rank * (8 * (-(-rows // 16) * 16 + cols) + 32) / (rows * cols)  # noqa: E731
    assert rank == 1 or bits(rank) <= 0.5
    assert bits(rank + 1) > 0.5
    assert read_parts(("lowrank4096",)).ranks(rows, cols) == min(rows, cols)
