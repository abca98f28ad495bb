// The oracle of joint codebooks: an input is a component of the entry that its code names.
#include <cmath>

#include "half.h"
#include "layout.h"
#include "scalar/scalar.h"

namespace kbit::scalar {
namespace {

unsigned code_of(const Matrix& m, int64_t tile, int row, int64_t code) {
  const uint8_t* blocks[3];
  block_pointers(m, tile, code / kBlockInputs, blocks);
  return code_at(blocks, m.bits, row, static_cast<int>(code % kBlockInputs));
}

float zero_of(const Matrix& m, int64_t tile, int64_t group, int row) {
  return m.zero_point != nullptr ? m.zero_point[(tile * m.groups + group) * kTileRows + row] : 0.0f;
}

int64_t end_of(int64_t begin, int64_t size, int64_t cols) { return begin + size < cols ? begin + size : cols; }

float fast_row(const Matrix& m, const Activations& x, int64_t token, int64_t tile, int row) {
  const IntCodebook& book = m.integer;
  float total = 0.0f;
  for (int64_t a = 0; a < x.groups; ++a) {
    const int64_t begin = a * m.activation_group, group = begin / m.group_size;
    const int32_t sum = x.sum[token * x.groups + a];
    int32_t dot = -book.centre * sum;
    for (int64_t code = begin; code < end_of(begin, m.activation_group, m.cols); ++code) {
      const unsigned entry = code_of(m, tile, row, code);
      const int8_t* block = x.q + token * x.stride + code / kBlockInputs * kBlockInputs * m.dims;
      for (int c = 0; c < m.dims; ++c) dot += book.q[kJointEntries * c + entry] * block[c * kBlockInputs + code % kBlockInputs];
    }
    const float scale = x.scale[token * x.groups + a];
    const float rest = (book.base - zero_of(m, tile, group, row)) * (scale * static_cast<float>(sum));
    total = std::fma(scale_at(m, tile, group, row), std::fma(static_cast<float>(dot), book.step * scale, rest), total);
  }
  return total;
}

float exact_row(const Matrix& m, const float* x, int64_t tile, int row) {
  float total = 0.0f;
  for (int64_t group = 0; group < m.groups; ++group) {
    const int64_t begin = group * m.group_size;
    const float zero = zero_of(m, tile, group, row);
    float dot = 0.0f;
    for (int64_t code = begin; code < end_of(begin, m.group_size, m.cols); ++code) {
      const unsigned entry = code_of(m, tile, row, code);
      for (int c = 0; c < m.dims && code * m.dims + c < m.inputs; ++c) {
        dot += (m.levels[static_cast<unsigned>(kJointEntries * c) + entry] - zero) * x[code * m.dims + c];
      }
    }
    total += scale_at(m, tile, group, row) * dot;
  }
  return total;
}

// y of all tokens; value(token, tile, row) is one of them.
template <class Value>
void each(const Matrix& m, int64_t tokens, float* y, int64_t y_stride, int64_t tile_begin, int64_t tile_end, Value&& value) {
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    for (int row = 0; row < kTileRows && tile * kTileRows + row < m.rows; ++row) {
      for (int64_t t = 0; t < tokens; ++t) y[t * y_stride + tile * kTileRows + row] = value(t, tile, row);
    }
  }
}

}  // namespace

void joint(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t*) {
  each(m, tokens, y, y_stride, begin, end, [&](int64_t t, int64_t tile, int row) { return fast_row(m, x, t, tile, row); });
}

void joint_exact(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end) {
  each(m, tokens, y, y_stride, begin, end, [&](int64_t t, int64_t tile, int row) { return exact_row(m, x + t * m.inputs, tile, row); });
}

}  // namespace kbit::scalar
