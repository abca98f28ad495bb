// Activations to int8, one scale a group: the same bytes as the oracle, since nearest-even rounding is the hardware's.
#include <cfloat>
#include <cmath>
#include <cstring>

#include "avx512.h"
#include "intrinsics.h"
#include "scales.h"

namespace kbit::avx512 {

namespace {

// A group of Vectors · 16 inputs, all in registers. Groups follow each other without waiting: nothing is carried between them.
template <int Vectors>
inline __attribute__((always_inline)) void quantize_whole(const float* x, int8_t* q, float* scale, int32_t* sum) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512 v[Vectors];
  __m512i largest = _mm512_setzero_si512();  // as integers, magnitudes keep their order, and NaN is above all
#pragma GCC unroll 8
  for (int i = 0; i < Vectors; ++i) {
    v[i] = _mm512_loadu_ps(x + 16 * i);
    largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(v[i]), magnitude));
  }
  const int32_t bits = _mm512_reduce_max_epi32(largest);
  float top;
  std::memcpy(&top, &bits, 4);
  const bool wild = bits >= 0x7f800000;
  if (wild || top < kSmallestActivation) {
    *scale = wild ? NAN : 0.0f;
    *sum = 0;
    std::memset(q, 0, 16 * Vectors);
    return;
  }
  *scale = top / 127.0f;
  const __m512 inverse = _mm512_set1_ps(127.0f / top);
  __m512i total = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int i = 0; i < Vectors; ++i) {
    const __m512i words = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], inverse));
    total = _mm512_add_epi32(total, words);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16 * i), _mm512_cvtsepi32_epi8(words));
  }
  *sum = _mm512_reduce_add_epi32(total);
}

// The groups from `begin_group` on, of any size.
void quantize_any(const Matrix& matrix, int64_t begin_group, const float* x, int8_t* q, float* scale, int32_t* sum) {
  const int64_t size = matrix.activation_group;
  const int64_t groups = ceil_div(matrix.cols, size);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int64_t g = begin_group; g < groups; ++g) {
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
}

template <int Vectors>
int64_t quantize_groups(const Matrix& matrix, const float* x, int8_t* q, float* scale, int32_t* sum) {
  const int64_t groups = matrix.cols / (16 * Vectors);
  for (int64_t g = 0; g < groups; ++g) quantize_whole<Vectors>(x + g * 16 * Vectors, q + g * 16 * Vectors, scale + g, sum + g);
  return groups;
}

}  // namespace

void quantize(const Matrix& matrix, const float* x, int8_t* q, float* scale, int32_t* sum) {
  int64_t done = 0;
  switch (matrix.activation_group) {
    case 32: done = quantize_groups<2>(matrix, x, q, scale, sum); break;
    case 64: done = quantize_groups<4>(matrix, x, q, scale, sum); break;
    case 128: done = quantize_groups<8>(matrix, x, q, scale, sum); break;
    default: break;
  }
  quantize_any(matrix, done, x, q, scale, sum);
  const int64_t padding = matrix.kblocks * kBlockInputs - matrix.cols;
  if (padding != 0) std::memset(q + matrix.cols, 0, static_cast<size_t>(padding));
}

}  // namespace kbit::avx512
