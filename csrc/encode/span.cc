#include "span.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace kbit::encode_detail {
namespace {

constexpr int32_t kInfinityKey = 0x7f800000;

// Half to float by exponent arithmetic: the product is exact, subnormals included; Inf and NaN get an all-ones exponent.
KBIT_CLONES void widen_halves(const uint16_t* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Halves halves;
    std::memcpy(&halves, in + i, sizeof halves);
    const Words wide = __builtin_convertvector(halves, Words), magnitude = (wide & 0x7fff) << 13;
    const Floats scaled = (Floats)magnitude * 0x1p112f;
    const Words special = (Words)((Ints)magnitude >= 0x0f800000) & 0x7f800000;
    const Words bits = (wide & 0x8000) << 16 | (Words)scaled | special;
    std::memcpy(out + i, &bits, sizeof bits);
  }
}

KBIT_CLONES void widen_bfloats(const uint16_t* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Halves halves;
    std::memcpy(&halves, in + i, sizeof halves);
    const Words bits = __builtin_convertvector(halves, Words) << 16;
    std::memcpy(out + i, &bits, sizeof bits);
  }
}

// Floats map to integers of the same order; NaN lies beyond the infinities.
inline float value_of(int32_t key) { return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff)); }

KBIT_CLONES void key_range(const float* span, int64_t count, int32_t* low, int32_t* high) {
  Ints lows = {}, highs = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    Ints bits;
    std::memcpy(&bits, span + i, sizeof bits);
    const Ints key = bits ^ ((bits >> 31) & 0x7fffffff);
    lows = key < lows ? key : lows;
    highs = key > highs ? key : highs;
  }
  *low = *high = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    *low = std::min(*low, lows[lane]);
    *high = std::max(*high, highs[lane]);
  }
}

KBIT_CLONES void divide(const float* span, int64_t count, float scale, float zero_point, float* out) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Floats w;
    std::memcpy(&w, span + i, sizeof w);
    const Floats t = w / scale + zero_point;
    std::memcpy(out + i, &t, sizeof t);
  }
}

template <void (*kWiden)(const uint16_t*, int64_t, float*)>
void load_16_bit(const uint16_t* in, int64_t count, float* out) {
  const int64_t whole = count / kSpanAlign * kSpanAlign;
  kWiden(in, whole, out);
  if (whole < count) {
    uint16_t rest[kSpanAlign] = {};
    std::memcpy(rest, in + whole, static_cast<size_t>(count - whole) * 2);
    kWiden(rest, kSpanAlign, out + whole);
  }
}

}  // namespace

void load_span(const Weights& weights, int64_t row, int64_t col, int64_t count, float* out) {
  const int64_t offset = row * weights.cols + col;
  if (weights.type == WeightType::fp32) {
    std::memcpy(out, static_cast<const float*>(weights.data) + offset, static_cast<size_t>(count) * 4);
    std::fill(out + count, out + padded(count), 0.0f);
  } else if (weights.type == WeightType::fp16) {
    load_16_bit<widen_halves>(static_cast<const uint16_t*>(weights.data) + offset, count, out);
  } else {
    load_16_bit<widen_bfloats>(static_cast<const uint16_t*>(weights.data) + offset, count, out);
  }
}

bool span_range(const float* span, int64_t count, float* low, float* high) {
  int32_t low_key, high_key;
  key_range(span, padded(count), &low_key, &high_key);
  *low = value_of(low_key);
  *high = value_of(high_key);
  return high_key < kInfinityKey && low_key > ~kInfinityKey;
}

void divide_span(const float* span, int64_t count, float scale, float zero_point, float* out) {
  if (scale == 0.0f)
    std::fill(out, out + padded(count), zero_point);
  else
    divide(span, padded(count), scale, zero_point, out);
}

}  // namespace kbit::encode_detail
