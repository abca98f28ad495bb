// What the activations of a group contribute to every row, a token at a time, and the step from a dot to the total.
#pragma once

#include <cstdint>
#include <cstring>

#include "dot.h"
#include "finish.h"
#include "intrinsics.h"
#include "kbit/kbit.h"
#include "scales.h"

namespace kbit::avx512 {

inline __attribute__((always_inline)) __m512i four_inputs(const void* x) {
  int32_t bytes;
  std::memcpy(&bytes, x, 4);
  return _mm512_set1_epi32(bytes);
}

constexpr int kChunk = 16;  // activation groups whose factors are computed at once

inline __attribute__((always_inline)) int64_t chunk_end(int64_t begin, int64_t groups) {
  return begin + kChunk < groups ? begin + kChunk : groups;
}

// What the activations of up to sixteen groups contribute for one token.
struct Factors {
  alignas(64) int32_t start[kChunk];       // (offset − centre) · Σ q_x: where the dots begin
  alignas(64) float step_scale[kChunk];    // step · a
  alignas(64) float activation_sum[kChunk];  // a · Σ q_x
  alignas(64) float rest[kChunk];          // base · a · Σ q_x: the second summand where there are no zero points

  // `offset`: how much the levels are above what was multiplied.
  inline __attribute__((always_inline)) void fill(const IntCodebook& book, int offset, const float* scale, const int32_t* sum, int64_t count) {
    const __m512 a = _mm512_maskz_loadu_ps(first(count), scale);
    const __m512i s = _mm512_maskz_loadu_epi32(first(count), sum);
    const __m512 a_sum = _mm512_mul_ps(a, _mm512_cvtepi32_ps(s));
    _mm512_store_si512(start, _mm512_mullo_epi32(_mm512_set1_epi32(offset - book.centre), s));
    _mm512_store_ps(step_scale, _mm512_mul_ps(_mm512_set1_ps(book.step), a));
    _mm512_store_ps(activation_sum, a_sum);
    _mm512_store_ps(rest, _mm512_mul_ps(_mm512_set1_ps(book.base), a_sum));
  }

  inline __attribute__((always_inline)) Sums start_of(int64_t i) const { return reinterpret_cast<Sums>(_mm512_set1_epi32(start[i])); }
};

// `dot` began at its start; `base` is base_less_zero where there are zero points.
template <bool Zero>
inline __attribute__((always_inline)) __m512 finish(__m512 total, Sums dot, const Factors& f, int64_t i, __m512 scale, __m512 base) {
  __m512 rest;
  if constexpr (Zero) rest = _mm512_mul_ps(base, _mm512_set1_ps(f.activation_sum[i]));
  else rest = _mm512_set1_ps(f.rest[i]);
  return add_group(total, reinterpret_cast<__m512i>(dot), _mm512_set1_ps(f.step_scale[i]), rest, scale);
}

}  // namespace kbit::avx512
