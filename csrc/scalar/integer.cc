// Fast mode without lookups, in plain C++: codes are multiplied as they are, and what their line makes of them follows once a group.
#include "scalar/line.h"
#include "scalar/scalar.h"

namespace kbit::scalar {

void integer(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t*) {
  CodeLine line;
  code_line(m, line);
  for (int64_t t = 0; t < tokens; ++t) {
    const int8_t* q = x.q + t * x.stride;
    each_row(m, begin, end, y + t * y_stride, [&](int64_t tile, int row) {
      return row_of_line(m, line, x, t, tile, row, [&](int64_t from, int64_t to) {
        int32_t sum = 0;
        for (int64_t block = from; block < to; ++block) {
          const uint8_t* blocks[3];
          block_pointers(m, tile, block, blocks);
          for (int i = 0; i < kBlockInputs; ++i) sum += static_cast<int32_t>(code_at(blocks, m.bits, row, i)) * q[block * kBlockInputs + i];
        }
        return sum;
      });
    });
  }
}

}  // namespace kbit::scalar
