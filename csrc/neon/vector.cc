// The engine's vector operations for this instruction set.
#include <arm_neon.h>

#include "vector/vector_ops.h"

namespace kbit {
#define KBIT_VECTOR_OPS neon_vector_ops
#include "vector/table.inl"
}  // namespace kbit
