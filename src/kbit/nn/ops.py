"""torch operators over packed matrices: `kbit::linear`, `kbit::linear_grad`, `kbit::embedding`.

An operator takes tensors and numbers only, so a packed matrix travels as an integer id. A `Handle` owns the matrix and
the id; the table below holds handles weakly, so memory goes with the module that owns the handle. Each operator has a
shape rule (`register_fake`) for tracing; `linear` has a gradient with respect to its input, grad_x = grad_y · W, where W
is the dequantized weight. Weights themselves are codes and have no gradient.

Arithmetic is float32: inputs of other float types are widened before and the result is narrowed after.
"""

import itertools
from collections.abc import Sequence
from typing import Any, cast
from weakref import WeakValueDictionary

import torch

from kbit.core.errors import DTypeError, KbitError, ShapeError
from kbit.kernels import Mode, PreparedMatrix

__all__ = ["FLOAT_DTYPES", "Handle", "embedding", "linear"]

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_LIBRARY: Any = torch.library.Library("kbit", "DEF")  # type: ignore[no-untyped-call]
_HANDLES: "WeakValueDictionary[int, Handle]" = WeakValueDictionary()
_IDS = itertools.count(1)


class Handle:
    """Owner of one prepared matrix, known to the operators by `id` for as long as the handle lives."""

    __slots__ = ("__weakref__", "cols", "id", "matrix", "rows")

    def __init__(self, matrix: PreparedMatrix, rows: int, cols: int) -> None:
        self.matrix, self.rows, self.cols = matrix, rows, cols
        self.id = next(_IDS)
        _HANDLES[self.id] = self


def _handle(number: int) -> Handle:
    handle = _HANDLES.get(number)
    if handle is None:
        raise KbitError(f"packed matrix {number} has been released: the module that owned it is gone or has changed its weight")
    return handle


def linear(x: torch.Tensor, handle: Handle, mode: str = "fast") -> torch.Tensor:
    """`x` [..., cols] times the packed matrix [rows, cols] transposed, in the dtype of `x`: [..., rows].

    Raises:
        ShapeError: the last dimension of `x` is not the matrix's cols.
        DTypeError: `x` is not float32, bfloat16 or float16.
    """
    _check_input(x, handle.cols)
    result: torch.Tensor = torch.ops.kbit.linear(x, handle.id, handle.rows, mode)
    return result


def embedding(ids: torch.Tensor, handle: Handle, dtype: torch.dtype) -> torch.Tensor:
    """Rows `ids` [...] of the packed matrix, dequantized: [..., cols] of `dtype`.

    Raises:
        DTypeError: `ids` are not int32 or int64.
        ShapeError: an id lies outside 0…rows-1.
    """
    if ids.dtype not in (torch.int64, torch.int32):
        raise DTypeError(f"expected ids of int64 or int32, got {ids.dtype}")
    result: torch.Tensor = torch.ops.kbit.embedding(ids, handle.id, handle.cols, dtype)
    return result


def _check_input(x: torch.Tensor, cols: int) -> None:
    if x.dtype not in FLOAT_DTYPES:
        raise DTypeError(f"expected an input of float32, bfloat16 or float16, got {x.dtype}")
    if x.ndim == 0 or x.shape[-1] != cols:
        raise ShapeError(f"expected an input whose last dimension is {cols}, got shape {tuple(x.shape)}")


def _linear_cpu(x: torch.Tensor, number: int, rows: int, mode: str) -> torch.Tensor:
    handle = _handle(number)
    x32 = x.detach().reshape(-1, handle.cols).to(torch.float32).contiguous()
    y = torch.empty(x32.shape[0], rows, dtype=torch.float32)
    if x32.shape[0]:
        handle.matrix.matmul_pointers(x32.data_ptr(), y.data_ptr(), x32.shape[0], mode=cast(Mode, mode))
    return y.view(*x.shape[:-1], rows).to(x.dtype)


def _linear_grad_cpu(grad: torch.Tensor, number: int, cols: int) -> torch.Tensor:
    weight = torch.from_numpy(_handle(number).matrix.dequantize())
    return (grad.to(torch.float32) @ weight).to(grad.dtype)


def _embedding_cpu(ids: torch.Tensor, number: int, cols: int, dtype: torch.dtype) -> torch.Tensor:
    handle = _handle(number)
    flat = ids.reshape(-1).to(torch.int64).contiguous()
    out = torch.empty(flat.shape[0], cols, dtype=torch.float32)
    if flat.shape[0]:
        low, high = (int(bound) for bound in torch.aminmax(flat))
        if low < 0 or high >= handle.rows:
            raise ShapeError(f"expected ids in 0…{handle.rows - 1}, got {low if low < 0 else high}")
        handle.matrix.gather_rows_pointer(flat.data_ptr(), flat.shape[0], out.data_ptr())
    return out.view(*ids.shape, cols).to(dtype)


def _linear_fake(x: torch.Tensor, number: int, rows: int, mode: str) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], rows))


def _linear_grad_fake(grad: torch.Tensor, number: int, cols: int) -> torch.Tensor:
    return grad.new_empty((*grad.shape[:-1], cols))


def _embedding_fake(ids: torch.Tensor, number: int, cols: int, dtype: torch.dtype) -> torch.Tensor:
    return ids.new_empty((*ids.shape, cols), dtype=dtype)


def _keep_for_backward(ctx: Any, inputs: Sequence[Any], output: torch.Tensor) -> None:
    x, ctx.number = inputs[0], inputs[1]
    ctx.cols = x.shape[-1]
    ctx.handle = _HANDLES.get(ctx.number)  # the weight must outlive its module until backward has run


def _linear_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
    return torch.ops.kbit.linear_grad(grad, ctx.number, ctx.cols), None, None, None


_LIBRARY.define("linear(Tensor x, int handle, int rows, str mode) -> Tensor")
_LIBRARY.define("linear_grad(Tensor grad, int handle, int cols) -> Tensor")
_LIBRARY.define("embedding(Tensor ids, int handle, int cols, ScalarType dtype) -> Tensor")
_LIBRARY.impl("linear", _linear_cpu, "CPU")
_LIBRARY.impl("linear_grad", _linear_grad_cpu, "CPU")
_LIBRARY.impl("embedding", _embedding_cpu, "CPU")
torch.library.register_fake("kbit::linear", _linear_fake, lib=_LIBRARY)
torch.library.register_fake("kbit::linear_grad", _linear_grad_fake, lib=_LIBRARY)
torch.library.register_fake("kbit::embedding", _embedding_fake, lib=_LIBRARY)
torch.library.register_autograd("kbit::linear", _linear_backward, setup_context=_keep_for_backward, lib=_LIBRARY)
