// From the bits of a matrix, known when it runs, to a template argument. Static like what layout.h has: each instruction set compiles its own.
#pragma once

#include "kbit/kbit.h"

namespace kbit {

// Calls body.template operator()<K>() for k = bits, 1 … 8.
template <class Body>
static inline void for_bits(int bits, Body&& body) {
  switch (bits) {
    case 1: return body.template operator()<1>();
    case 2: return body.template operator()<2>();
    case 3: return body.template operator()<3>();
    case 4: return body.template operator()<4>();
    case 5: return body.template operator()<5>();
    case 6: return body.template operator()<6>();
    case 7: return body.template operator()<7>();
    default: return body.template operator()<8>();
  }
}

// The kinds of codes that kernels are compiled for: 1 … 8 by their bits, and 8 + bits for a trellis.
static constexpr bool is_trellis(int kind) { return kind > 8; }
static constexpr int bits_of(int kind) { return is_trellis(kind) ? kind - 8 : kind; }

// Calls body.template operator()<K>() for the kind of the matrix.
template <class Body>
static inline void for_kind(const Matrix& m, Body&& body) {
  if (!m.trellis) return for_bits(m.bits, body);
  switch (m.bits) {
    case 1: return body.template operator()<9>();
    case 2: return body.template operator()<10>();
    case 3: return body.template operator()<11>();
    default: return body.template operator()<12>();
  }
}

}  // namespace kbit
