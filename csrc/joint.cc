// Joint codebooks: a code stands for two or three neighbouring inputs.
//
// All components of all entries share one affine integer codebook, so that a group's sum is one integer dot as it is for scalar codebooks. With
// activations cut into components as well, decoded tiles and activations lie like those of a scalar matrix of dims · 32 · kblocks inputs (`flat`),
// and whatever multiplies decoded tiles serves both.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels.h"

namespace kbit {
namespace {

constexpr int64_t kMostInputs = 128;  // that share an activation scale

// Codes that share an activation scale: 64 or 32 at two dims, 32 at three.
int64_t activation_codes(int64_t group_size, int64_t cols, int dims) {
  const int64_t most = kMostInputs / dims / kBlockInputs * kBlockInputs;
  return group_size == cols || group_size % most == 0 ? most : kBlockInputs;
}

bool permitted(int bits, int dims) { return (dims == 2 && bits >= 2 && bits <= 6) || (dims == 3 && (bits == 3 || bits == 6)); }

void set_levels(Matrix& m, const float* codebook, int n_entries) {
  std::fill(m.levels, m.levels + 256, 0.0f);
  for (int c = 0; c < m.dims; ++c) {
    for (int entry = 0; entry < kJointEntries; ++entry) {
      m.levels[kJointEntries * c + entry] = codebook[std::min(entry, n_entries - 1) * m.dims + c];
    }
  }
}

void build_integers(Matrix& m) {
  const int count = m.dims * kJointEntries;
  int order[256];
  std::iota(order, order + count, 0);
  std::sort(order, order + count, [&](int a, int b) { return m.levels[a] < m.levels[b]; });
  float values[256];
  for (int i = 0; i < count; ++i) values[i] = m.levels[order[i]];
  std::memset(&m.integer, 0, sizeof m.integer);
  IntCodebook sorted{};
  fit_bytes(values, count, sorted);
  m.integer = sorted;
  for (int i = 0; i < count; ++i) m.integer.q[order[i]] = sorted.q[i];
  std::fill(m.integer.q + count, m.integer.q + 256, m.integer.q[0]);
}

// Blocks of D · 32 inputs → 32 bytes for each component.
template <int D>
void cut(const int8_t* inputs, int64_t blocks, int8_t* q) {
  for (int64_t block = 0; block < blocks; ++block, inputs += D * kBlockInputs, q += D * kBlockInputs) {
    for (int c = 0; c < D; ++c) {
      for (int j = 0; j < kBlockInputs; ++j) q[c * kBlockInputs + j] = inputs[D * j + c];
    }
  }
}

}  // namespace

Status build_joint(Matrix& m, const float* codebook, int n_entries) {
  if (m.rows < 1 || m.inputs < 1 || !permitted(m.bits, m.dims) || n_entries < 1 || n_entries > (1 << m.bits)) return Status::invalid_argument;
  m.cols = ceil_div(m.inputs, m.dims);
  if (m.group_size == -1 || m.group_size == m.inputs) {
    m.group_size = m.cols;
  } else {
    if (m.group_size < 1 || m.group_size > m.inputs || m.group_size % (m.dims * kBlockInputs) != 0) return Status::invalid_argument;
    m.group_size /= m.dims;
  }
  m.tiles = ceil_div(m.rows, kTileRows);
  m.kblocks = ceil_div(m.cols, kBlockInputs);
  m.groups = ceil_div(m.cols, m.group_size);
  m.activation_group = activation_codes(m.group_size, m.cols, m.dims);
  m.n_levels = n_entries;
  for (int i = 0; i < n_entries * m.dims; ++i) {
    if (!std::isfinite(codebook[i])) return Status::not_finite;
  }
  set_levels(m, codebook, n_entries);
  build_integers(m);
  return Status::ok;
}

Matrix flat(const Matrix& matrix) {
  Matrix m = matrix;
  m.kblocks *= matrix.dims;
  m.cols = m.inputs = m.kblocks * kBlockInputs;
  m.group_size = matrix.groups == 1 ? m.cols : matrix.group_size * matrix.dims;
  m.activation_group *= matrix.dims;
  m.dims = 1;
  return m;
}

void quantize_input(const Kernels& kernels, const Matrix& m, const float* x, int8_t* q, float* scale, int32_t* sum) {
  if (m.dims == 1) return kernels.quantize(m, x, q, scale, sum);
  // Group by group in the inputs' own order, then cut into components.
  Matrix group{};
  const int64_t size = m.activation_group * m.dims, blocks = m.activation_group / kBlockInputs;
  for (int64_t g = 0; g < input_groups(m); ++g) {
    const int64_t begin = g * size;
    int8_t natural[kMostInputs + kBlockInputs] = {};
    group.cols = group.inputs = std::min(size, m.inputs - begin);
    group.kblocks = ceil_div(group.cols, kBlockInputs);
    group.activation_group = kMostInputs;
    kernels.quantize(group, x + begin, natural, scale + g, sum + g);
    const int64_t count = std::min(blocks, m.kblocks - g * blocks);
    if (m.dims == 2) cut<2>(natural, count, q + begin);
    else cut<3>(natural, count, q + begin);
  }
}

}  // namespace kbit
