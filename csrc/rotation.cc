// Rotation of a matrix's inputs, Q = blockdiag(H) · diag(signs): H is the orthonormal Walsh–Hadamard matrix of a power of two, signs are a
// fixed hash of the input's index (vector/rotation.inl). Q is orthogonal, so W x = (W Qᵀ)(Q x): codes are of W Qᵀ, whose rows are spread
// evenly over their groups, and activations are rotated once an input.
#include <algorithm>

#include "kbit/threads.h"
#include "kernels.h"

namespace kbit {
namespace {

template <class Turn>
void each_row(const float* x, int64_t rows, int64_t cols, float* out, int threads, Turn&& turn) {
  threads::parallel_for(rows, rows * cols < (1 << 16) ? 1 : threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) turn(x + r * cols, out + r * cols);
  });
}

}  // namespace

bool rotation_possible(int64_t cols, int64_t block) { return block >= 16 && (block & (block - 1)) == 0 && cols >= 1 && cols % block == 0; }

void rotate_rows(const float* x, int64_t rows, int64_t cols, int64_t block, float* out, int threads) {
  const VectorOps& vector = *active_kernels().vector;
  each_row(x, rows, cols, out, threads, [&](const float* from, float* to) { vector.rotate_inputs(from, cols, block, to); });
}

void restore_rows(const float* x, int64_t rows, int64_t cols, int64_t block, float* out, int threads) {
  const VectorOps& vector = *active_kernels().vector;
  each_row(x, rows, cols, out, threads, [&](const float* from, float* to) {
    if (from != to) std::copy(from, from + cols, to);
    vector.restore_inputs(to, cols, block);
  });
}

}  // namespace kbit
