// The table of one instruction set. The including file has opened `namespace kbit` and defines KBIT_VECTOR_OPS, the table's name.

namespace {
#include "vector/lanes.h"
#include "vector/rows.inl"
#include "vector/rotation.inl"
#include "vector/dense.inl"
#include "vector/cache.inl"
#include "vector/attend.inl"
#include "vector/parts.inl"
#include "vector/trellis_pass.inl"
#include "vector/trellis_walk.inl"

constexpr TrellisOps trellis_ops{pass, walk};
}  // namespace

const VectorOps KBIT_VECTOR_OPS{norm,          add,            scale,          epilogue, rotate, softmax, dense_row,  dense,      hadamard,
                                rotate_inputs, restore_inputs, store_position, expand,   attend, project, add_parts, fill_pruned, &trellis_ops};
