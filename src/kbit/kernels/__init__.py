"""Products with k-bit matrices: the plain reference, and the native kernels that are held against it."""

from kbit.kernels.cpu import MODES, Mode, PreparedMatrix, prepare
from kbit.kernels.reference import matmul_exact, matmul_fast

__all__ = ["MODES", "Mode", "PreparedMatrix", "matmul_exact", "matmul_fast", "prepare"]
