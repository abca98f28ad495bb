// What an activation group contributes to every row, and the step from a dot to the total.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "scales.h"

namespace kbit::avx2 {

inline __attribute__((always_inline)) __m256i four_inputs(const void* x) {
  int32_t bytes;
  std::memcpy(&bytes, x, 4);
  return _mm256_set1_epi32(bytes);
}

// What an activation group of one token contributes to every row: computed once, read by every tile.
struct Term {
  int32_t start;         // (offset − centre) · Σ q_x, where the integer dot begins
  float step_scale;      // step · a
  float activation_sum;  // a · Σ q_x
  float rest;            // base · a · Σ q_x
};
constexpr int kTermTokens = 4;
static_assert(sizeof(Term) * kTermTokens * 2 <= 256);  // term_bytes: a k-block has at most two groups

// `offset`: how much the levels are above what is multiplied.
inline void fill_terms(const Matrix& m, int offset, const Activations& x, int64_t token, Term* terms) {
  for (int64_t a = 0; a < x.groups; ++a) {
    const float scale = x.scale[token * x.groups + a];
    const int32_t sum = x.sum[token * x.groups + a];
    const float activation_sum = scale * static_cast<float>(sum);
    terms[a] = {(offset - m.integer.centre) * sum, m.integer.step * scale, activation_sum, m.integer.base * activation_sum};
  }
}

// The scale group of activation group 0, 1, 2 … without a division for each.
class ScaleGroup {
 public:
  explicit ScaleGroup(const Matrix& m) : each_(m.groups == 1 ? INT64_MAX : m.group_size / m.activation_group) {}
  int64_t operator*() const { return group_; }
  void next() {
    if (++inside_ == each_) inside_ = 0, ++group_;
  }

 private:
  int64_t each_, inside_ = 0, group_ = 0;
};

// total + scale · (step·a·dot + (base − zero)·a·Σ q_x), fused as in the oracle.
inline __attribute__((always_inline)) __m256 add_group(const Matrix& m, __m256 total, __m256i dot, const Term& term, int64_t tile, int64_t group,
                                                       int half) {
  __m256 rest = _mm256_broadcast_ss(&term.rest);
  if (m.zero_point != nullptr) {
    const __m256 offset = _mm256_sub_ps(_mm256_set1_ps(m.integer.base), load_zeros(m, tile, group, half));
    rest = _mm256_mul_ps(offset, _mm256_broadcast_ss(&term.activation_sum));
  }
  const __m256 value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_broadcast_ss(&term.step_scale), rest);
  return _mm256_fmadd_ps(load_scales(m, tile, group, half), value, total);
}

}  // namespace kbit::avx2
