// Activations to int8, one scale a group: the same bytes as the oracle, since nearest-even rounding is the hardware's.
#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstring>

#include "avx2.h"

namespace kbit::avx2 {
namespace {

inline float largest_of(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  m = _mm_max_ss(m, _mm_movehdup_ps(m));
  return _mm_cvtss_f32(m);
}

// Sixteen fp32 → int8; returns their sum in lanes of `sum`.
inline __m128i sixteen(const float* x, __m256 inverse, __m256i& sum) {
  const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
  const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse));
  sum = _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

inline int32_t total_of(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

}  // namespace

void quantize(const Matrix& matrix, const float* x, int8_t* q, float* scale, int32_t* sum) {
  const int64_t size = matrix.activation_group;
  const int64_t groups = ceil_div(matrix.cols, size);
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * size;
    const int64_t count = begin + size < matrix.cols ? size : matrix.cols - begin;
    const int64_t padded = ceil_div(count, 16) * 16;
    alignas(32) float tail[128];  // a ragged last group, padded with zeros
    const float* from = x + begin;
    if (padded != count) {
      std::memset(tail, 0, sizeof tail);
      std::memcpy(tail, from, static_cast<size_t>(count) * sizeof(float));
      from = tail;
    }
    __m256 largest = _mm256_setzero_ps(), finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for (int64_t i = 0; i < padded; i += 8) {
      const __m256 v = _mm256_and_ps(_mm256_loadu_ps(from + i), magnitude);
      finite = _mm256_and_ps(finite, _mm256_cmp_ps(v, _mm256_set1_ps(FLT_MAX), _CMP_LE_OQ));
      largest = _mm256_max_ps(largest, v);
    }
    const bool all_finite = _mm256_movemask_ps(finite) == 0xff;
    const float top = largest_of(largest);
    sum[g] = 0;
    if (!all_finite || top < kSmallestActivation) {
      scale[g] = all_finite ? 0.0f : NAN;
      std::memset(q + begin, 0, static_cast<size_t>(padded));
      continue;
    }
    scale[g] = top / 127.0f;
    const __m256 inverse = _mm256_set1_ps(127.0f / top);
    __m256i total = _mm256_setzero_si256();
    for (int64_t i = 0; i < padded; i += 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + begin + i), sixteen(from + i, inverse, total));
    }
    sum[g] = total_of(total);
  }
  const int64_t written = ceil_div(matrix.cols, 16) * 16;
  std::memset(q + written, 0, static_cast<size_t>(matrix.kblocks * kBlockInputs - written));
}

}  // namespace kbit::avx2
