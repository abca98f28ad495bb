// Scales as they are stored, as fp32. The exponent of an fp16 or e4m3 number is re-biased by one exact multiplication, so
// that subnormals need no case of their own.
#pragma once

#include <bit>
#include <cstdint>

#include "kbit/kbit.h"

namespace kbit {

static inline float half_to_float(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  float value = std::bit_cast<float>(magnitude) * 0x1p112f;
  if ((bits & 0x7c00u) == 0x7c00u) value = std::bit_cast<float>(magnitude | 0x7f800000u);
  return (bits & 0x8000u) != 0 ? -value : value;
}

static inline float e4m3_to_float(uint8_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fu) << 20;
  const float value = std::bit_cast<float>(magnitude) * 0x1p120f;
  return (bits & 0x80u) != 0 ? -value : value;
}

// Scale of row `row` (0…15) of tile `tile` in group `group`.
static inline float scale_at(const Matrix& m, int64_t tile, int64_t group, int64_t row) {
  const int64_t index = (tile * m.groups + group) * kTileRows + row;
  switch (m.scale_kind) {
    case ScaleKind::fp16: return half_to_float(static_cast<const uint16_t*>(m.scale)[index]);
    case ScaleKind::e4m3: return e4m3_to_float(static_cast<const uint8_t*>(m.scale)[index]) * m.super_scale[0];
    case ScaleKind::dq8: return static_cast<float>(static_cast<const int8_t*>(m.scale)[index]) * m.super_scale[tile];
  }
  return 0.0f;
}

}  // namespace kbit
