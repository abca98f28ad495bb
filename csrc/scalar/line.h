// Rows of a matrix whose codebook is a line, from the sums of their codes: what integer and serial kernels have in common.
#pragma once

#include <cmath>

#include "half.h"
#include "kernels.h"
#include "layout.h"
#include "variants.h"

namespace kbit::scalar {

// y of one row of a tile and one token; dot(begin, end) is Σ code · q_x over the k-blocks [begin, end).
template <class Dot>
float row_of_line(const Matrix& m, const CodeLine& line, const Activations& x, int64_t token, int64_t tile, int row, Dot&& dot) {
  const int64_t size = m.activation_group / kBlockInputs;
  float total = 0.0f;
  for (int64_t a = 0; a < x.groups; ++a) {
    const int32_t sum = x.sum[token * x.groups + a];
    const int32_t codes = dot(a * size, a + 1 == x.groups ? m.kblocks : (a + 1) * size);
    const int64_t group = a * m.activation_group / m.group_size;
    const float scale = x.scale[token * x.groups + a];
    const float zero = m.zero_point != nullptr ? m.zero_point[(tile * m.groups + group) * kTileRows + row] : 0.0f;
    const float rest = (m.integer.base - zero) * (scale * static_cast<float>(sum));
    const auto main = static_cast<float>(line.step * codes + (line.offset - m.integer.centre) * sum);
    total = std::fma(scale_at(m, tile, group, row), std::fma(main, m.integer.step * scale, rest), total);
  }
  return total;
}

// y of the rows of tiles [begin, end); value(tile, row) is one of them.
template <class Value>
void each_row(const Matrix& m, int64_t begin, int64_t end, float* y, Value&& value) {
  for (int64_t tile = begin; tile < end; ++tile) {
    for (int row = 0; row < kTileRows && tile * kTileRows + row < m.rows; ++row) y[tile * kTileRows + row] = value(tile, row);
  }
}

}  // namespace kbit::scalar
