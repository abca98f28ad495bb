// The sixteen scales or zero points of a tile's group as fp32, four rows a register.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kbit/kbit.h"
#include "unroll.h"

namespace kbit::neon {
namespace {

struct Rows {
  float32x4_t quarter[4];

  KBIT_INLINE static Rows all(float value) {
    Rows rows;
    unroll<4>([&]<int Q>() KBIT_INLINE { rows.quarter[Q] = vdupq_n_f32(value); });
    return rows;
  }
};

// Sixteen bytes as 32-bit lanes.
KBIT_INLINE inline uint32x4_t widen_unsigned(uint8x16_t v, int quarter) {
  const uint16x8_t half = quarter < 2 ? vmovl_u8(vget_low_u8(v)) : vmovl_u8(vget_high_u8(v));
  return quarter % 2 == 0 ? vmovl_u16(vget_low_u16(half)) : vmovl_u16(vget_high_u16(half));
}

KBIT_INLINE inline int32x4_t widen_signed(int8x16_t v, int quarter) {
  const int16x8_t half = quarter < 2 ? vmovl_s8(vget_low_s8(v)) : vmovl_s8(vget_high_s8(v));
  return quarter % 2 == 0 ? vmovl_s16(vget_low_s16(half)) : vmovl_s16(vget_high_s16(half));
}

KBIT_INLINE inline float32x4_t from_e4m3(uint32x4_t bits) {
  const uint32x4_t magnitude = vshlq_n_u32(vandq_u32(bits, vdupq_n_u32(0x7f)), 20);
  const uint32x4_t sign = vshlq_n_u32(vandq_u32(bits, vdupq_n_u32(0x80)), 24);
  const float32x4_t value = vmulq_n_f32(vreinterpretq_f32_u32(magnitude), 0x1p120f);
  return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(value), sign));
}

KBIT_INLINE inline Rows load_scales(const Matrix& m, int64_t tile, int64_t group) {
  const int64_t index = (tile * m.groups + group) * kTileRows;
  Rows rows;
  if (m.scale_kind == ScaleKind::fp16) {
    const auto* p = static_cast<const uint16_t*>(m.scale) + index;
    unroll<4>([&]<int Q>() KBIT_INLINE { rows.quarter[Q] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * Q))); });
  } else if (m.scale_kind == ScaleKind::e4m3) {
    const uint8x16_t bits = vld1q_u8(static_cast<const uint8_t*>(m.scale) + index);
    unroll<4>([&]<int Q>() KBIT_INLINE { rows.quarter[Q] = vmulq_n_f32(from_e4m3(widen_unsigned(bits, Q)), m.super_scale[0]); });
  } else {
    const int8x16_t value = vld1q_s8(static_cast<const int8_t*>(m.scale) + index);
    unroll<4>([&]<int Q>() KBIT_INLINE { rows.quarter[Q] = vmulq_n_f32(vcvtq_f32_s32(widen_signed(value, Q)), m.super_scale[tile]); });
  }
  return rows;
}

KBIT_INLINE inline Rows load_zeros(const Matrix& m, int64_t tile, int64_t group) {
  if (m.zero_point == nullptr) return Rows::all(0.0f);
  const uint8x16_t value = vld1q_u8(m.zero_point + (tile * m.groups + group) * kTileRows);
  Rows rows;
  unroll<4>([&]<int Q>() KBIT_INLINE { rows.quarter[Q] = vcvtq_f32_u32(widen_unsigned(value, Q)); });
  return rows;
}

// Rows of a tile that exist: all sixteen but in the last tile.
KBIT_INLINE inline void store_rows(const Matrix& m, int64_t tile, float* y, const Rows& rows) {
  const int64_t left = m.rows - tile * kTileRows;
  float* out = y + tile * kTileRows;
  if (left >= kTileRows) {
    unroll<4>([&]<int Q>() KBIT_INLINE { vst1q_f32(out + 4 * Q, rows.quarter[Q]); });
    return;
  }
  float all[kTileRows];
  unroll<4>([&]<int Q>() KBIT_INLINE { vst1q_f32(all + 4 * Q, rows.quarter[Q]); });
  for (int64_t r = 0; r < left; ++r) out[r] = all[r];
}

}  // namespace
}  // namespace kbit::neon
