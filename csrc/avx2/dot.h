// Products of integer levels and int8 activations in 16 bits, by the depth of the codebook (IntCodebook::depth).
//
// maddubs adds two products in 16 bits. How many of its results fit there depends on the codebook:
// q ≤ 15 lets eight be added before they are widened, q ≤ 128 one. Books that span 0…255 use q − 128 as a signed byte:
// |w| takes the unsigned place and the activation carries the sign of w.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kbit/kbit.h"

namespace kbit::avx2 {

template <int Depth>
inline __m256i products(__m256i w, __m256i x) {
  if constexpr (Depth == 0) return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  return _mm256_maddubs_epi16(w, x);
}

inline __m256i widen(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

// Signed books hold q − 128.
template <int Depth>
constexpr int kOffset = Depth == 0 ? 128 : 0;

// Integer levels as the tables hold them.
inline void table_values(const IntCodebook& book, uint8_t (&value)[256]) {
  for (int code = 0; code < 256; ++code) value[code] = static_cast<uint8_t>(book.q[code] ^ (book.depth == 0 ? 0x80 : 0));
}

// Calls body.template operator()<Depth>().
template <class Body>
void for_depth(int depth, Body&& body) {
  switch (depth) {
    case 8: return body.template operator()<8>();
    case 4: return body.template operator()<4>();
    case 2: return body.template operator()<2>();
    case 1: return body.template operator()<1>();
    default: return body.template operator()<0>();
  }
}

}  // namespace kbit::avx2
