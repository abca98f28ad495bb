// Activations to int8, one scale a group: the same bytes as the oracle, since nearest-even rounding is the hardware's.
#include <cfloat>
#include <cmath>
#include <cstring>

#include "avx512.h"
#include "intrinsics.h"
#include "scales.h"

namespace kbit::avx512 {

void quantize(const Matrix& matrix, const float* x, int8_t* q, float* scale, int32_t* sum) {
  const int64_t size = matrix.activation_group;
  const int64_t groups = ceil_div(matrix.cols, size);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * size;
    const int64_t count = begin + size < matrix.cols ? size : matrix.cols - begin;
    const float* from = x + begin;
    int8_t* to = q + begin;
    __m512 largest = _mm512_setzero_ps();
    __mmask16 wild = 0;  // lanes that met NaN or Inf
    for (int64_t i = 0; i < count; i += 16) {
      const __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(first(count - i), from + i));
      const __m512 v = _mm512_castsi512_ps(_mm512_and_si512(bits, magnitude));
      wild = static_cast<__mmask16>(wild | _mm512_cmp_ps_mask(v, _mm512_set1_ps(FLT_MAX), _CMP_NLE_UQ));
      largest = _mm512_max_ps(largest, v);
    }
    const float top = _mm512_reduce_max_ps(largest);
    sum[g] = 0;
    if (wild != 0 || top < kSmallestActivation) {
      scale[g] = wild != 0 ? NAN : 0.0f;
      std::memset(to, 0, static_cast<size_t>(count));
      continue;
    }
    scale[g] = top / 127.0f;
    const __m512 inverse = _mm512_set1_ps(127.0f / top);
    __m512i total = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
      const __m512 v = _mm512_maskz_loadu_ps(first(count - i), from + i);
      const __m512i words = _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
      total = _mm512_add_epi32(total, words);
      // All sixteen: what lies beyond the last group's end is padding, and zero.
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm512_cvtsepi32_epi8(words));
    }
    sum[g] = _mm512_reduce_add_epi32(total);
  }
  std::memset(q + matrix.cols, 0, static_cast<size_t>(matrix.kblocks * kBlockInputs - matrix.cols));
}

}  // namespace kbit::avx512
