// Eight scales or zero points of a group, as fp32.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kbit/kbit.h"

namespace kbit::avx2 {

inline __attribute__((always_inline)) __m256 load_scales(const Matrix& m, int64_t tile, int64_t group, int half) {
  const int64_t index = (tile * m.groups + group) * kTileRows + 8 * half;
  switch (m.scale_kind) {
    case ScaleKind::fp16: {
      const auto* p = static_cast<const uint16_t*>(m.scale) + index;
      return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    case ScaleKind::e4m3: {
      const auto* p = static_cast<const uint8_t*>(m.scale) + index;
      const __m256i bits = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
      const __m256i magnitude = _mm256_slli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x7f)), 20);
      const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x80)), 24);
      const __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(0x1p120f));
      return _mm256_mul_ps(_mm256_or_ps(value, _mm256_castsi256_ps(sign)), _mm256_set1_ps(m.super_scale[0]));
    }
    default: {
      const auto* p = static_cast<const int8_t*>(m.scale) + index;
      const __m256i value = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
      return _mm256_mul_ps(_mm256_cvtepi32_ps(value), _mm256_set1_ps(m.super_scale[tile]));
    }
  }
}

inline __attribute__((always_inline)) __m256 load_zeros(const Matrix& m, int64_t tile, int64_t group, int half) {
  const uint8_t* p = m.zero_point + (tile * m.groups + group) * kTileRows + 8 * half;
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

// Rows of a tile that exist: all sixteen but in the last tile.
inline void store_rows(const Matrix& m, int64_t tile, float* y, __m256 low, __m256 high) {
  const int64_t left = m.rows - tile * kTileRows;
  float* out = y + tile * kTileRows;
  if (left >= kTileRows) {
    _mm256_storeu_ps(out, low);
    _mm256_storeu_ps(out + 8, high);
    return;
  }
  alignas(32) float rows[kTileRows];
  _mm256_store_ps(rows, low);
  _mm256_store_ps(rows + 8, high);
  for (int64_t r = 0; r < left; ++r) out[r] = rows[r];
}

}  // namespace kbit::avx2
