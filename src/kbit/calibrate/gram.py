"""Sums of xᵀx over rows: the upper triangle, block by block, which is little more than half the work of the whole.

Rows of bfloat16 are multiplied as such where the processor can, and their products summed in float32; elsewhere they are widened first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

__all__ = ["add_gram", "mirror"]

#: columns of a block
_BLOCK = 512


def add_gram(total: torch.Tensor, rows: torch.Tensor) -> None:
    """Add the sum of xᵀx over `rows` [n, cols] to `total` float32 [cols, cols], in its upper triangle; the lower one is undefined then."""
    columns = rows.T.contiguous().float()
    with _bfloat16_products(rows.dtype == torch.bfloat16):
        for begin in range(0, len(total), _BLOCK):
            total[begin : begin + _BLOCK, begin:].addmm_(columns[begin : begin + _BLOCK], columns[begin:].T)


def mirror(total: torch.Tensor) -> None:
    """Make the lower triangle of `total` [cols, cols] that of the upper one."""
    for begin in range(0, len(total), _BLOCK):
        end = begin + _BLOCK
        corner = total[begin:end, begin:end]
        corner.copy_(corner.triu() + corner.triu(1).T)
        total[end:, begin:end] = total[begin:end, end:].T


@contextmanager
def _bfloat16_products(wanted: bool) -> Iterator[None]:
    """Let oneDNN round the factors of float32 products to bfloat16, which changes nothing where they are so already."""
    matmul = cast(Any, torch.backends.mkldnn).matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16" if wanted else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
