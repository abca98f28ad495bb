"""The operators against plain torch on the dequantized weight, and against torch's own checks of operators."""

import gc

import pytest
import torch
from torch.nn import functional

from kbit.core.errors import DTypeError, KbitError, ShapeError
from kbit.kernels import prepare
from kbit.nn import ops
from kbit.tensor.quantized import QuantizedTensor


def handle_of(quantized: QuantizedTensor) -> ops.Handle:
    return ops.Handle(prepare(quantized)[0], *quantized.shape)


@pytest.fixture
def handle(quantized: QuantizedTensor) -> ops.Handle:
    return handle_of(quantized)


def test_opcheck(handle: ops.Handle) -> None:
    x = torch.randn(2, 3, 96, requires_grad=True)
    torch.library.opcheck(torch.ops.kbit.linear.default, (x, handle.id, handle.rows, "exact"))
    torch.library.opcheck(torch.ops.kbit.linear.default, (x.detach().bfloat16(), handle.id, handle.rows, "fast"))
    torch.library.opcheck(torch.ops.kbit.linear_grad.default, (torch.randn(5, 40), handle.id, handle.cols))
    torch.library.opcheck(torch.ops.kbit.embedding.default, (torch.tensor([[3, 0], [39, 3]]), handle.id, handle.cols, torch.bfloat16))


def test_exact_linear_is_the_dequantized_product(quantized: QuantizedTensor, handle: ops.Handle) -> None:
    x = torch.randn(7, 96)
    expected = functional.linear(x, torch.from_numpy(quantized.dequantize()))
    torch.testing.assert_close(ops.linear(x, handle, "exact"), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("dtype", ops.FLOAT_DTYPES)
def test_linear_keeps_dtype_and_any_leading_dimensions(handle: ops.Handle, mode: str, dtype: torch.dtype) -> None:
    x = torch.randn(4, 2, 96).to(dtype)
    flat = ops.linear(x.reshape(8, 96), handle, mode)
    assert flat.dtype == dtype
    assert torch.equal(ops.linear(x, handle, mode), flat.view(4, 2, 40))
    assert torch.equal(ops.linear(x[0, 0], handle, mode), flat[0])
    # computed in float32, narrowed once
    assert torch.equal(ops.linear(x.float(), handle, mode).to(dtype), flat.view(4, 2, 40))


def test_linear_reads_what_is_not_contiguous(handle: ops.Handle) -> None:
    x = torch.randn(96, 6)
    assert torch.equal(ops.linear(x.t(), handle, "exact"), ops.linear(x.t().contiguous(), handle, "exact"))
    row = torch.randn(1, 96).expand(5, 96)
    assert torch.equal(ops.linear(row, handle, "exact"), ops.linear(row.contiguous(), handle, "exact"))


def test_linear_of_no_tokens(handle: ops.Handle) -> None:
    assert ops.linear(torch.empty(0, 3, 96), handle).shape == (0, 3, 40)
    assert ops.embedding(torch.empty(2, 0, dtype=torch.int64), handle, torch.float32).shape == (2, 0, 96)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_gradient_is_grad_times_weight(quantized: QuantizedTensor, handle: ops.Handle, mode: str) -> None:
    weight = torch.from_numpy(quantized.dequantize())
    x, grad = torch.randn(2, 5, 96, requires_grad=True), torch.randn(2, 5, 40)
    ops.linear(x, handle, mode).backward(grad)
    torch.testing.assert_close(x.grad, grad @ weight, rtol=1e-5, atol=1e-4)


def test_backward_outlives_the_module(quantized: QuantizedTensor) -> None:
    x = torch.randn(3, 96, requires_grad=True)
    handle = handle_of(quantized)
    y = ops.linear(x, handle, "exact").sum()
    del handle
    gc.collect()
    y.backward()
    torch.testing.assert_close(x.grad[0], torch.from_numpy(quantized.dequantize().sum(0)), rtol=1e-4, atol=1e-4)


def test_handles_are_held_weakly(quantized: QuantizedTensor) -> None:
    handle = handle_of(quantized)
    number = handle.id
    ops.linear(torch.randn(1, 96), handle)
    del handle
    gc.collect()
    assert number not in ops._HANDLES
    with pytest.raises(KbitError, match="has been released"):
        torch.ops.kbit.linear(torch.randn(1, 96), number, 40, "fast")


@pytest.mark.parametrize("dtype", ops.FLOAT_DTYPES)
def test_embedding_gathers_rows(quantized: QuantizedTensor, handle: ops.Handle, dtype: torch.dtype) -> None:
    ids = torch.tensor([[0, 39], [17, 0]])
    expected = torch.from_numpy(quantized.dequantize())[ids].to(dtype)
    assert torch.equal(ops.embedding(ids, handle, dtype), expected)
    assert torch.equal(ops.embedding(ids.int().t(), handle, dtype), expected.transpose(0, 1))


@pytest.mark.parametrize("bad", [-1, 40, 2**40])
def test_embedding_refuses_ids_outside_the_table(handle: ops.Handle, bad: int) -> None:
    with pytest.raises(ShapeError, match=rf"expected ids in 0…39, got {bad}"):
        ops.embedding(torch.tensor([0, bad]), handle, torch.float32)


def test_refuses_wrong_inputs(handle: ops.Handle) -> None:
    with pytest.raises(ShapeError, match="last dimension is 96, got shape"):
        ops.linear(torch.randn(3, 95), handle)
    with pytest.raises(DTypeError, match=r"got torch\.uint8"):
        ops.linear(torch.zeros(3, 96, dtype=torch.uint8), handle)
    with pytest.raises(DTypeError, match="int64 or int32"):
        ops.embedding(torch.zeros(3), handle, torch.float32)
