// The AVX2 table, and the loops that measure what this instruction set can do at best.
#include <immintrin.h>

#include "avx2.h"

namespace kbit {
namespace avx2 {

uint64_t read(const uint8_t* data, int64_t bytes) {
  __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  for (int64_t i = 0; i < bytes; i += 128) {
    for (int lane = 0; lane < 4; ++lane) {
      sum[lane] = _mm256_add_epi64(sum[lane], _mm256_load_si256(reinterpret_cast<const __m256i*>(data + i + 32 * lane)));
    }
  }
  const __m256i all = _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3]));
  const __m128i halves = _mm_add_epi64(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_add_epi64(halves, _mm_unpackhi_epi64(halves, halves))));
}

// maddubs and the widening madd that exact int8 dots need, one each for 32 multiply-adds, in eight independent chains.
int64_t dot_products(int64_t rounds) {
  __m256i sum[8];
  volatile int start = 3;
  for (int i = 0; i < 8; ++i) sum[i] = _mm256_set1_epi8(static_cast<char>(start + i));
  const __m256i w = _mm256_set1_epi8(static_cast<char>(start)), ones = _mm256_set1_epi16(1);
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < 8; ++i) sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(w, sum[i]), ones));
  }
  for (int i = 1; i < 8; ++i) sum[0] = _mm256_add_epi32(sum[0], sum[i]);
  volatile int sink = _mm256_extract_epi32(sum[0], 0);
  static_cast<void>(sink);
  return rounds * 8 * 32;
}

const VariantKernels variants{lookup, integer, serial};

}  // namespace avx2

const Kernels avx2_kernels{"avx2", avx2::quantize, avx2::fast, avx2::exact, avx2::read, avx2::dot_products, &avx2_vector_ops, &avx2::variants};

}  // namespace kbit
