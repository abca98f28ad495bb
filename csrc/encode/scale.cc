#include "scale.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "half.h"

namespace kbit::encode_detail {
namespace {

// A small float with `kMantissa` mantissa bits and smallest normal exponent `kSmallest`, from a finite magnitude in its range.
template <int kMantissa, int kSmallest>
uint32_t round_magnitude(float magnitude) {
  constexpr int drop = 23 - kMantissa;
  const float smallest_normal = std::ldexp(1.0f, kSmallest);
  if (magnitude < smallest_normal)  // subnormals are multiples of one step; 2^kMantissa of them carry into the first normal
    return static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, kMantissa - kSmallest)));
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = bits + (1u << (drop - 1)) - 1u + ((bits >> drop) & 1u);
  return (rounded >> drop) - (static_cast<uint32_t>(127 + kSmallest - 1) << kMantissa);
}

}  // namespace

uint16_t half_from_float(float value) {
  const uint32_t magnitude = round_magnitude<10, -14>(std::min(std::fabs(value), 65504.0f));
  return static_cast<uint16_t>(magnitude | (std::signbit(value) ? 0x8000u : 0u));
}

uint8_t e4m3_from_float(float value) {
  const uint32_t magnitude = round_magnitude<3, -6>(std::min(std::fabs(value), kLargestE4M3));
  return static_cast<uint8_t>(magnitude | (std::signbit(value) ? 0x80u : 0u));
}

StoredScale ScaleCodec::round(float scale) const {
  StoredScale stored;
  if (kind_ == ScaleKind::fp16) {
    stored.bits = half_from_float(scale);
    stored.value = half_to_float(stored.bits);
  } else if (super_scale_ == 0.0f) {
    return stored;
  } else if (kind_ == ScaleKind::e4m3) {
    stored.bits = e4m3_from_float(scale / super_scale_);
    stored.value = e4m3_to_float(static_cast<uint8_t>(stored.bits)) * super_scale_;
  } else {
    const float steps = std::nearbyint(std::clamp(scale / super_scale_, -kLargestInt8, kLargestInt8));
    stored.bits = static_cast<uint8_t>(static_cast<int8_t>(steps));
    stored.value = steps * super_scale_;
  }
  return stored.value == 0.0f ? StoredScale{} : stored;
}

}  // namespace kbit::encode_detail
