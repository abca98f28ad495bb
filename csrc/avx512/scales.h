// The sixteen scales or zero points of a group, as fp32, and the rows that come of them.
#pragma once

#include <cstdint>

#include "intrinsics.h"
#include "kbit/kbit.h"

namespace kbit::avx512 {

inline __attribute__((always_inline)) __m128i load_bytes(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

inline __attribute__((always_inline)) __m512 load_scales(const Matrix& m, int64_t tile, int64_t group) {
  const int64_t index = (tile * m.groups + group) * kTileRows;
  switch (m.scale_kind) {
    case ScaleKind::fp16: {
      const auto* p = static_cast<const uint16_t*>(m.scale) + index;
      return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    case ScaleKind::e4m3: {
      const __m512i bits = _mm512_cvtepu8_epi32(load_bytes(static_cast<const uint8_t*>(m.scale) + index));
      const __m512i magnitude = _mm512_slli_epi32(_mm512_and_si512(bits, _mm512_set1_epi32(0x7f)), 20);
      const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(bits, _mm512_set1_epi32(0x80)), 24);
      const __m512 value = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(0x1p120f));
      const __m512 signed_value = _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(value), sign));
      return _mm512_mul_ps(signed_value, _mm512_set1_ps(m.super_scale[0]));
    }
    default: {
      const __m512i value = _mm512_cvtepi8_epi32(load_bytes(static_cast<const int8_t*>(m.scale) + index));
      return _mm512_mul_ps(_mm512_cvtepi32_ps(value), _mm512_set1_ps(m.super_scale[tile]));
    }
  }
}

constexpr int kScalesAhead = 1024;  // bytes; measured with kPlaneAhead

// Scales are a stream beside the planes and are asked for ahead of their use as well.
inline __attribute__((always_inline)) void prefetch_scales(const Matrix& m, int64_t tile, int64_t group) {
  const int64_t index = (tile * m.groups + group) * kTileRows;
  _mm_prefetch(static_cast<const char*>(m.scale) + (m.scale_kind == ScaleKind::fp16 ? 2 * index : index) + kScalesAhead, _MM_HINT_T0);
  if (m.zero_point != nullptr) _mm_prefetch(m.zero_point + index + kScalesAhead, _MM_HINT_T0);
}

inline __attribute__((always_inline)) __m512 load_zeros(const Matrix& m, int64_t tile, int64_t group) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_bytes(m.zero_point + (tile * m.groups + group) * kTileRows)));
}

// Lanes [0, count) of sixteen.
inline __attribute__((always_inline)) __mmask16 first(int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << count) - 1u);
}

// Rows of a tile that exist: all sixteen but in the last tile.
inline __attribute__((always_inline)) void store_rows(const Matrix& m, int64_t tile, float* y, __m512 rows) {
  _mm512_mask_storeu_ps(y + tile * kTileRows, first(m.rows - tile * kTileRows), rows);
}

}  // namespace kbit::avx512
