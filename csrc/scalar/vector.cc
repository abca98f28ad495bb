// The engine's vector operations without any instruction set beyond the baseline, whose vectors AArch64's has.
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "vector/vector_ops.h"

namespace kbit {
#define KBIT_VECTOR_OPS scalar_vector_ops
#include "vector/table.inl"
}  // namespace kbit
