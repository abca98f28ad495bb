// The straight codebooks that integer and serial kernels take.
#pragma once

#include "kbit/kbit.h"

namespace kbit {

// q[code] = offset + step · code for every code that occurs (below n_levels).
struct CodeLine {
  int offset, step;
};

// False where the codebook is no line.
static inline bool code_line(const Matrix& m, CodeLine& line) {
  const uint8_t* q = m.integer.q;
  line = {q[0], m.n_levels > 1 ? q[1] - q[0] : 1};
  for (int code = 0; code < m.n_levels; ++code) {
    if (q[code] != line.offset + line.step * code) return false;
  }
  return true;
}

// How far a plane's bits stand above the lowest of a code.
static constexpr int plane_shift(int bits, int plane) {
  int shift = bits;
  for (int p = 0; p <= plane; ++p) shift -= plane_width(bits, p);
  return shift;
}

}  // namespace kbit
