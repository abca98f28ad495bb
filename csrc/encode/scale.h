// Scales in their stored form: fp16, or OCP E4M3 / int8 under an fp32 super-scale.
#pragma once

#include "kbit/encode.h"

namespace kbit::encode_detail {

struct StoredScale {
  uint16_t bits = 0;   // fp16 bits, e4m3 bits or the byte of an int8; +0 for every zero
  float value = 0.0f;  // what the stored form means, super-scale included
};

constexpr float kLargestE4M3 = 448.0f;
constexpr float kLargestInt8 = 127.0f;

class ScaleCodec {
 public:
  ScaleCodec(ScaleKind kind, float super_scale) : kind_(kind), super_scale_(super_scale) {}
  StoredScale round(float scale) const;  // nearest, ties to even; saturates; not for NaN

 private:
  ScaleKind kind_;
  float super_scale_;
};

// Rounds to nearest even, saturating at ±65504 and ±448.
uint16_t half_from_float(float value);
uint8_t e4m3_from_float(float value);

}  // namespace kbit::encode_detail
