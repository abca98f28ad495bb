// Activations to int8, one scale a group: the same bytes as the oracle, since nearest-even rounding is the hardware's.
#include <cmath>
#include <cstring>

#include "avx512.h"
#include "intrinsics.h"
#include "scales.h"

namespace kbit::avx512 {
namespace {

// `count` ≤ Vectors · 16 inputs, in registers. Groups follow each other without waiting: nothing is carried between them.
template <int Vectors>
inline __attribute__((always_inline)) void quantize_group(const float* x, int64_t count, int8_t* q, float* scale, int32_t* sum) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512 v[Vectors];
  __m512i largest = _mm512_setzero_si512();  // as integers, magnitudes keep their order, and NaN is above all
#pragma GCC unroll 8
  for (int i = 0; i < Vectors; ++i) {
    v[i] = 16 * i < count ? _mm512_maskz_loadu_ps(first(count - 16 * i), x + 16 * i) : _mm512_setzero_ps();
    largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(v[i]), magnitude));
  }
  const int32_t bits = _mm512_reduce_max_epi32(largest);
  float top;
  std::memcpy(&top, &bits, 4);
  const bool wild = bits >= 0x7f800000;
  if (wild || top < kSmallestActivation) {
    *scale = wild ? NAN : 0.0f;
    *sum = 0;
    std::memset(q, 0, static_cast<size_t>(count));
    return;
  }
  *scale = top / 127.0f;
  const __m512 inverse = _mm512_set1_ps(127.0f / top);
  __m512i total = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int i = 0; i < Vectors; ++i) {
    if (16 * i >= count) break;
    const __m512i words = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], inverse));
    total = _mm512_add_epi32(total, words);
    // All sixteen: what lies beyond the last group's end is padding, and zero.
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16 * i), _mm512_cvtsepi32_epi8(words));
  }
  *sum = _mm512_reduce_add_epi32(total);
}

template <int Vectors>
void quantize_groups(int64_t cols, const float* x, int8_t* q, float* scale, int32_t* sum) {
  constexpr int64_t size = 16 * Vectors;
  const int64_t whole = cols / size;
  for (int64_t g = 0; g < whole; ++g) quantize_group<Vectors>(x + g * size, size, q + g * size, scale + g, sum + g);
  if (whole * size < cols) quantize_group<Vectors>(x + whole * size, cols - whole * size, q + whole * size, scale + whole, sum + whole);
}

}  // namespace

void quantize(const Matrix& matrix, const float* x, int8_t* q, float* scale, int32_t* sum) {
  switch (matrix.activation_group) {  // a multiple of sixteen up to 128
    case 16: quantize_groups<1>(matrix.cols, x, q, scale, sum); break;
    case 32: quantize_groups<2>(matrix.cols, x, q, scale, sum); break;
    case 48: quantize_groups<3>(matrix.cols, x, q, scale, sum); break;
    case 64: quantize_groups<4>(matrix.cols, x, q, scale, sum); break;
    case 80: quantize_groups<5>(matrix.cols, x, q, scale, sum); break;
    case 96: quantize_groups<6>(matrix.cols, x, q, scale, sum); break;
    case 112: quantize_groups<7>(matrix.cols, x, q, scale, sum); break;
    default: quantize_groups<8>(matrix.cols, x, q, scale, sum);
  }
  const int64_t padding = matrix.kblocks * kBlockInputs - matrix.cols;
  if (padding != 0) std::memset(q + matrix.cols, 0, static_cast<size_t>(padding));
}

}  // namespace kbit::avx512
