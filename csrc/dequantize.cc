// Rows of a packed matrix as fp32: embeddings, and the way back to an ordinary checkpoint.
#include "half.h"
#include "kbit/kbit.h"
#include "kbit/threads.h"
#include "layout.h"

namespace kbit {
namespace {

void dequantize_row(const Matrix& m, int64_t index, float* out) {
  const int64_t tile = index / kTileRows;
  const int row = static_cast<int>(index % kTileRows);
  int64_t group = -1;
  float scale = 0.0f, zero = 0.0f;
  for (int64_t i = 0; i < m.cols; ++i) {
    if (i / m.group_size != group) {
      group = i / m.group_size;
      scale = scale_at(m, tile, group, row);
      zero = m.zero_point != nullptr ? m.zero_point[(tile * m.groups + group) * kTileRows + row] : 0.0f;
    }
    out[i] = scale * (m.levels[level_index(m, tile, row, i)] - zero);
  }
}

}  // namespace

void dequantize_rows(const Matrix& m, const int64_t* ids, int64_t count, float* out, int threads) {
  if (count * m.cols < 32768) threads = 1;
  threads::parallel_for(count, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) dequantize_row(m, ids[i], out + i * m.cols);
  });
}

}  // namespace kbit
