"""Sums of xᵀx by triangles: as the plain product, for widths beside a block's, of either dtype."""

import pytest
import torch

from kbit.calibrate import gram

WIDTHS = [1, 7, 8, 9, 24, 37]


def gathered(batches: list[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros(batches[0].shape[1], batches[0].shape[1])
    for rows in batches:
        gram.add_gram(total, rows)
    gram.mirror(total)
    return total


@pytest.mark.parametrize("cols", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triangles_make_the_whole(cols: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "_BLOCK", 8)
    draw = torch.Generator().manual_seed(cols)
    batches = [torch.randn(rows, cols, generator=draw).to(dtype) for rows in (5, 64, 1)]
    total, rows = gathered(batches), torch.cat(batches).double()
    torch.testing.assert_close(total.double(), rows.T @ rows, rtol=1e-5, atol=1e-4)
    assert torch.equal(total, total.T)


def test_rounded_products_leave_the_setting_as_it_was() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    gathered([torch.ones(4, 4, dtype=torch.bfloat16)])
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_float32_is_not_rounded() -> None:
    """Even where a program lets oneDNN round: a Hessian of float32 rows is one of float32 products."""
    rows = 1 + torch.rand(4096, 64, generator=torch.Generator().manual_seed(0)) * 2**-9
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        total = gathered([rows])
    finally:
        matmul.fp32_precision = before
    torch.testing.assert_close(total.double(), rows.double().T @ rows.double(), rtol=1e-6, atol=0)
