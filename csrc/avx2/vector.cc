// The engine's vector operations for this instruction set.
#include <immintrin.h>

#include "vector/vector_ops.h"

namespace kbit {
#define KBIT_VECTOR_OPS avx2_vector_ops
#include "vector/table.inl"
}  // namespace kbit
