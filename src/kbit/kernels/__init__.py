"""Products with k-bit matrices: the plain reference, and the native kernels that are held against it."""

from kbit.kernels.cpu import MODES, Mode, PreparedMatrix, prepare
from kbit.kernels.reference import matmul_exact, matmul_fast
from kbit.kernels.select import choose
from kbit.kernels.variants import TokenClass, Variant

__all__ = ["MODES", "Mode", "PreparedMatrix", "TokenClass", "Variant", "choose", "matmul_exact", "matmul_fast", "prepare"]
