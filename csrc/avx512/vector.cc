// The engine's vector operations for this instruction set.
#include "intrinsics.h"
#include "vector/vector_ops.h"

namespace kbit {
#define KBIT_VECTOR_OPS avx512_vector_ops
#include "vector/table.inl"
}  // namespace kbit
