// Fast mode bit by bit, in plain C++: what csrc/serial.h says, a lane at a time.
#include <bit>
#include <cstring>

#include "scalar/line.h"
#include "scalar/scalar.h"
#include "serial.h"

namespace kbit::scalar {
namespace {

// Σ code · q_x of a row over the k-blocks [from, to).
int32_t count(const Matrix& m, int64_t tile, int row, const uint32_t* words, int64_t from, int64_t to) {
  const uint8_t* planes[3];
  block_pointers(m, tile, 0, planes);
  int32_t total = 0;
  for (int p = 0; p < plane_count(m.bits); ++p) {
    const int width = plane_width(m.bits, p), size = serial_words(width);
    const uint32_t* word = words + serial_offset(m, p) + from * width * size;
    int32_t sum = 0;
    for (int64_t vector = from * width; vector < to * width; ++vector) {
      uint32_t lane;
      std::memcpy(&lane, planes[p] + 64 * vector + 4 * row, 4);
      for (int w = 0; w < size; ++w) sum += serial_weight(width, w) * std::popcount(lane & *word++);
    }
    total += sum * (1 << plane_shift(m.bits, p));
  }
  return total;
}

}  // namespace

void serial(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  CodeLine line;
  code_line(m, line);
  auto* words = reinterpret_cast<uint32_t*>(scratch);
  for (int64_t t = 0; t < tokens; ++t) {
    uint32_t* out = words;
    cut_words(m, x.q + t * x.stride, [&](uint32_t word) { *out++ = word; });
    each_row(m, begin, end, y + t * y_stride, [&](int64_t tile, int row) {
      return row_of_line(m, line, x, t, tile, row, [&](int64_t from, int64_t to) { return count(m, tile, row, words, from, to); });
    });
  }
}

}  // namespace kbit::scalar
