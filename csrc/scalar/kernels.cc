// The oracle: every kernel in plain C++, in the order of operations that all instruction sets share.
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>

#include "half.h"
#include "kernels.h"
#include "layout.h"
#include "scalar/scalar.h"

namespace kbit {
namespace {

void quantize(const Matrix& matrix, const float* x, int8_t* q, float* scale, int32_t* sum) {
  const int64_t size = matrix.activation_group;
  const int64_t groups = ceil_div(matrix.cols, size);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * size;
    const int64_t end = begin + size < matrix.cols ? begin + size : matrix.cols;
    float largest = 0.0f;
    bool finite = true;
    for (int64_t i = begin; i < end; ++i) {
      const float magnitude = std::fabs(x[i]);
      finite = finite && magnitude <= FLT_MAX;
      if (magnitude > largest) largest = magnitude;
    }
    sum[g] = 0;
    if (!finite || largest < kSmallestActivation) {
      scale[g] = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
      std::memset(q + begin, 0, static_cast<size_t>(end - begin));
      continue;
    }
    scale[g] = largest / 127.0f;
    const float inverse = 127.0f / largest;
    for (int64_t i = begin; i < end; ++i) {
      q[i] = static_cast<int8_t>(std::nearbyintf(x[i] * inverse));
      sum[g] += q[i];
    }
  }
  std::memset(q + matrix.cols, 0, static_cast<size_t>(matrix.kblocks * kBlockInputs - matrix.cols));
}

void fast(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t tile_begin, int64_t tile_end,
          uint8_t* scratch) {
  if (m.dims > 1) return scalar::joint(m, x, tokens, y, y_stride, tile_begin, tile_end, scratch);
  const IntCodebook& book = m.integer;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    for (int row = 0; row < kTileRows && tile * kTileRows + row < m.rows; ++row) {
      for (int64_t t = 0; t < tokens; ++t) {
        float total = 0.0f;
        for (int64_t a = 0; a < x.groups; ++a) {
          const int64_t begin = a * m.activation_group;
          const int64_t end = begin + m.activation_group < m.cols ? begin + m.activation_group : m.cols;
          int32_t dot = -book.centre * x.sum[t * x.groups + a];
          for (int64_t i = begin; i < end; ++i) {
            dot += book.q[level_index(m, tile, row, i)] * x.q[t * x.stride + i];
          }
          const int64_t group = begin / m.group_size;
          const float activation_scale = x.scale[t * x.groups + a];
          const float activation_sum = activation_scale * static_cast<float>(x.sum[t * x.groups + a]);
          const float zero = m.zero_point != nullptr ? m.zero_point[(tile * m.groups + group) * kTileRows + row] : 0.0f;
          const float rest = (book.base - zero) * activation_sum;
          total = std::fma(scale_at(m, tile, group, row), std::fma(static_cast<float>(dot), book.step * activation_scale, rest), total);
        }
        y[t * y_stride + tile * kTileRows + row] = total;
      }
    }
  }
}

void exact(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int64_t tile_begin, int64_t tile_end, uint8_t*) {
  if (m.dims > 1) return scalar::joint_exact(m, x, tokens, y, y_stride, tile_begin, tile_end);
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    for (int row = 0; row < kTileRows && tile * kTileRows + row < m.rows; ++row) {
      for (int64_t t = 0; t < tokens; ++t) {
        float total = 0.0f;
        for (int64_t group = 0; group < m.groups; ++group) {
          const int64_t begin = group * m.group_size;
          const int64_t end = begin + m.group_size < m.cols ? begin + m.group_size : m.cols;
          const float zero = m.zero_point != nullptr ? m.zero_point[(tile * m.groups + group) * kTileRows + row] : 0.0f;
          float dot = 0.0f;
          for (int64_t i = begin; i < end; ++i) {
            dot += (m.levels[level_index(m, tile, row, i)] - zero) * x[t * m.cols + i];
          }
          total += scale_at(m, tile, group, row) * dot;
        }
        y[t * y_stride + tile * kTileRows + row] = total;
      }
    }
  }
}

uint64_t read(const uint8_t* data, int64_t bytes) {
  uint64_t total[4] = {0, 0, 0, 0}, word[4];
  for (int64_t i = 0; i < bytes; i += 32) {
    std::memcpy(word, data + i, 32);
    for (int lane = 0; lane < 4; ++lane) total[lane] += word[lane];
  }
  return total[0] + total[1] + total[2] + total[3];
}

int64_t dot_products(int64_t rounds) {
  volatile int8_t start = 3;
  int32_t sums[4] = {0, 0, 0, 0};
  const int8_t x = start;
  for (int64_t i = 0; i < rounds; ++i) {
    for (int lane = 0; lane < 4; ++lane) sums[lane] += x * static_cast<int8_t>(sums[lane] + lane);
  }
  volatile int32_t sink = sums[0] + sums[1] + sums[2] + sums[3];
  static_cast<void>(sink);
  return rounds * 4;
}

const VariantKernels variants{nullptr, scalar::integer, scalar::serial};

}  // namespace

const Kernels scalar_kernels{"scalar", quantize, fast, exact, read, dot_products, &scalar_vector_ops, &variants};

}  // namespace kbit
