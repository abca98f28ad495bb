// From the integer dots of an activation group to outputs, as in the oracle.
#pragma once

#include <cstdint>

#include "intrinsics.h"
#include "kbit/kbit.h"
#include "scales.h"

namespace kbit::avx512 {

// total + scale · (unit·dot + rest), fused twice; unit is step · a.
inline __attribute__((always_inline)) __m512 add_group(__m512 total, __m512i dot, __m512 unit, __m512 rest, __m512 scale) {
  return _mm512_fmadd_ps(scale, _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), unit, rest), total);
}

// What multiplies a · Σ q_x where rows have zero points of their own.
inline __attribute__((always_inline)) __m512 base_less_zero(const Matrix& m, int64_t tile, int64_t group) {
  return _mm512_sub_ps(_mm512_set1_ps(m.integer.base), load_zeros(m, tile, group));
}

// The weight group of one activation group after another, without a division for each.
class Groups {
 public:
  explicit inline __attribute__((always_inline)) Groups(const Matrix& m)
      : each_(m.groups == 1 ? INT64_MAX : m.group_size / m.activation_group), left_(each_) {}
  inline __attribute__((always_inline)) int64_t current() const { return group_; }
  inline __attribute__((always_inline)) void next() {
    if (--left_ == 0) {
      left_ = each_;
      ++group_;
    }
  }

 private:
  int64_t each_, left_, group_ = 0;
};

}  // namespace kbit::avx512
