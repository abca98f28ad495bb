"""A packed matrix prepared to run on this machine's processor.

`PreparedMatrix` keeps the packed arrays alive and hands their addresses to the native kernels; nothing is copied or repacked.
Exact mode computes in fp32 in a fixed order; fast mode quantizes activations to int8 per group first. Both give the same bytes
for every instruction set and number of threads (ARCHITECTURE.md, "Arithmetic").
"""

from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import DTypeError, NumericsError, SchemeError, ShapeError
from kbit.kernels.parts import attach_parts
from kbit.kernels.select import choose
from kbit.kernels.variants import TOKEN_CLASSES, VARIANTS, Kind, TokenClass, Variant, applicable
from kbit.native import _kbit, isa
from kbit.native.encoding import SCALE_KINDS
from kbit.tensor.pruned import filled_levels, tile_bytes
from kbit.tensor.quantized import QuantizedTensor

__all__ = ["MODES", "Mode", "PreparedMatrix", "prepare"]

Mode = Literal["fast", "exact"]
MODES: tuple[Mode, ...] = ("fast", "exact")

_MAX_TOKENS = 1 << 24
_EMPTY_BYTES = np.empty(0, np.uint8)
_EMPTY_FLOATS = np.empty(0, np.float32)


class PreparedMatrix:
    """A k-bit matrix [rows, cols] ready to be multiplied with, by the variants that `kbit.kernels.select` chooses.

    Attributes:
        rows: outputs.
        cols: inputs.
        kind: what the choice of a variant depends on.
        size_bytes: bytes that one pass over the matrix reads: codes, scales and zero points.
        native: the compiled matrix, which keeps the arrays alive.
        residual: the residual levels of a cascade, whose products are added to those of the first codes.

    """

    __slots__ = ("_variants", "cols", "kind", "native", "residual", "rows", "size_bytes")

    def __init__(self, quantized: QuantizedTensor) -> None:
        if len(quantized.shape) != 2:
            raise ShapeError(f"expected a matrix [rows, cols], got shape {quantized.shape}; prepare() takes stacks")
        scheme = quantized.scheme
        self.rows, self.cols = quantized.shape
        self.size_bytes = sum(part.nbytes for name, part in quantized.parts().items() if not name.endswith("codebook"))
        self.residual = [PreparedMatrix(level) for level in quantized.residual_levels()]
        try:
            self.native = _native(quantized)
            attach_parts(self.native, quantized.extra)
            if self.residual:
                self.native.set_residual([level.native for level in self.residual])
        except ValueError as error:
            raise ShapeError(f"parts do not fit a {self.rows}×{self.cols} matrix of {scheme.text}: {error}") from None
        straight = self.native.variant_possible(VARIANTS.index("integer"))
        self.kind = Kind(8 if scheme.spec.pruned else scheme.bits, straight, self.native.activation_group(), self.rows, self.cols)
        self._variants: dict[TokenClass, Variant] = {}
        for tokens in TOKEN_CLASSES:
            self.select(tokens, choose(self.kind, tokens, isa()))

    @property
    def possible_variants(self) -> tuple[Variant, ...]:
        """Variants that this matrix permits."""
        return applicable(self.kind)

    def variant(self, tokens: TokenClass) -> Variant:
        """The variant of fast mode for a class of token counts."""
        return self._variants[tokens]

    def select(self, tokens: TokenClass, variant: Variant) -> None:
        """Run fast mode by `variant` from now on, for a class of token counts; results do not change.

        Raises:
            SchemeError: a class or variant that does not exist, or that this matrix does not permit.
        """
        if tokens not in TOKEN_CLASSES:
            raise SchemeError(f"expected a class of tokens of {', '.join(TOKEN_CLASSES)}, got {tokens!r}")
        if variant not in VARIANTS or not self.native.select_variant(TOKEN_CLASSES.index(tokens), VARIANTS.index(variant)):
            kind = f"a {'' if self.kind.straight else 'not '}straight matrix of {self.kind.bits} bits"
            raise SchemeError(f"expected a variant for {kind} ({', '.join(self.possible_variants)}), got {variant!r}")
        self._variants[tokens] = variant

    def matmul(self, x: NDArray[np.float32], *, mode: Mode = "fast", threads: int = 0) -> NDArray[np.float32]:
        """Y = x · Wᵀ for x [tokens, cols]; returns [tokens, rows] in fp32."""
        if x.dtype != np.float32:
            raise DTypeError(f"expected float32 activations, got {x.dtype}")
        if x.ndim != 2 or x.shape[1] != self.cols:
            raise ShapeError(f"expected activations [tokens, {self.cols}], got {list(x.shape)}")
        x = np.ascontiguousarray(x)
        y = np.empty((x.shape[0], self.rows), np.float32)
        self.matmul_pointers(x.ctypes.data, y.ctypes.data, x.shape[0], mode=mode, threads=threads)
        return y

    def matmul_pointers(self, x: int, y: int, tokens: int, *, mode: Mode = "fast", threads: int = 0) -> None:
        """The same from the addresses of contiguous fp32 memory: x [tokens, cols] and y [tokens, rows]. Releases the GIL."""
        if mode not in MODES:
            raise SchemeError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if not 0 <= tokens <= _MAX_TOKENS:
            raise ShapeError(f"expected 0…{_MAX_TOKENS} tokens, got {tokens}")
        if tokens:
            self.native.matmul(x, y, tokens, mode == "exact", threads)

    def gather_rows(self, ids: NDArray[np.int64], *, threads: int = 0) -> NDArray[np.float32]:
        """Rows `ids` [n] of the matrix in fp32, [n, cols]."""
        ids = np.ascontiguousarray(ids, np.int64)
        if ids.ndim != 1:
            raise ShapeError(f"expected ids [n], got {list(ids.shape)}")
        out = np.empty((ids.shape[0], self.cols), np.float32)
        self.gather_rows_pointer(ids.ctypes.data, ids.shape[0], out.ctypes.data, threads=threads)
        return out

    def gather_rows_pointer(self, ids: int, count: int, out: int, *, threads: int = 0) -> None:
        """The same from addresses: ids int64 [count], out fp32 [count, cols]."""
        bad = self.native.gather_rows(ids, count, out, threads)
        if bad >= 0:
            raise NumericsError(f"row id at position {bad} is outside 0…{self.rows - 1}")

    def dequantize(self, *, threads: int = 0) -> NDArray[np.float32]:
        """The whole matrix in fp32, [rows, cols]."""
        return self.gather_rows(np.arange(self.rows, dtype=np.int64), threads=threads)

    def integer_codebook(self) -> dict[str, object]:
        """The affine integer codebook of fast mode: level ≈ base + step·(q − centre); q [n], of a vector grid [dims · n] by component.

        ``residual`` has those of the residual levels.
        """
        return self.native.integer_codebook() | {"residual": [level.integer_codebook() for level in self.residual]}


def _native(quantized: QuantizedTensor) -> _kbit.PackedMatrix:
    scheme, (rows, cols), kind = quantized.scheme, quantized.shape, SCALE_KINDS[quantized.scheme.scale_dtype]
    super_scale = _EMPTY_FLOATS if quantized.super_scale is None else np.ascontiguousarray(quantized.super_scale, np.float32).reshape(-1)
    zero_point = _EMPTY_BYTES if quantized.zero_point is None else _bytes(quantized.zero_point)
    codes, scale, levels = _bytes(quantized.weight), _bytes(quantized.scale), np.ascontiguousarray(quantized.levels, np.float32)
    stored = (rows, cols, scheme.bits, scheme.group_size, kind, codes, scale, super_scale, zero_point)
    if not scheme.spec.pruned:
        return _kbit.PackedMatrix(*stored, levels.reshape(-1), scheme.dims, quantized.rotation, scheme.grid == "trellis")
    filled, inserted, zero = filled_levels(levels)
    mask = _bytes(quantized.extra["weight_mask"])
    return _kbit.PackedMatrix(*stored, filled, quantized.rotation, mask, tile_bytes(scheme, cols), inserted, zero)


def prepare(quantized: QuantizedTensor) -> list[PreparedMatrix]:
    """Prepared matrices of a tensor: one for a matrix, one for each member of a stack [count, rows, cols]."""
    return [PreparedMatrix(matrix) for matrix in quantized.matrices()]


def _bytes(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    return cast("NDArray[np.uint8]", np.ascontiguousarray(array).reshape(-1).view(np.uint8))
