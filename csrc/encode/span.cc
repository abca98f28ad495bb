#include "span.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace kbit::encode_detail {
namespace {

constexpr int32_t kInfinityKey = 0x7f800000;

// Half to float by exponent arithmetic: the product is exact, subnormals included; Inf and NaN keep an all-ones exponent.
inline uint32_t widen_half(uint16_t half) {
  const uint32_t magnitude = (half & 0x7fffu) << 13, sign = (half & 0x8000u) << 16;
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  return sign | finite | (magnitude >= 0x0f800000u ? 0x7f800000u : 0u);
}

// Order-preserving map of floats to integers; NaN lies beyond the infinities.
inline int32_t key_of(float value) {
  const int32_t bits = std::bit_cast<int32_t>(value);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
inline float value_of(int32_t key) { return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff)); }

KBIT_CLONES void widen_halves(const uint16_t* in, int64_t blocks, float* out) {
  for (int64_t block = 0; block < blocks; ++block, in += kLanes, out += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) out[lane] = std::bit_cast<float>(widen_half(in[lane]));
}

KBIT_CLONES void widen_bfloats(const uint16_t* in, int64_t blocks, float* out) {
  for (int64_t block = 0; block < blocks; ++block, in += kLanes, out += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) out[lane] = std::bit_cast<float>(static_cast<uint32_t>(in[lane]) << 16);
}

KBIT_CLONES void key_range(const float* span, int64_t blocks, int32_t* low, int32_t* high) {
  int32_t lows[kLanes] = {}, highs[kLanes] = {};
  for (int64_t block = 0; block < blocks; ++block, span += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const int32_t key = key_of(span[lane]);
      lows[lane] = lows[lane] < key ? lows[lane] : key;
      highs[lane] = highs[lane] > key ? highs[lane] : key;
    }
  *low = *std::min_element(lows, lows + kLanes);
  *high = *std::max_element(highs, highs + kLanes);
}

KBIT_CLONES void divide_blocks(const float* span, int64_t blocks, float scale, float zero_point, float* out) {
  for (int64_t block = 0; block < blocks; ++block, span += kLanes, out += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) out[lane] = span[lane] / scale + zero_point;
}

template <void (*kWiden)(const uint16_t*, int64_t, float*)>
void load_16_bit(const uint16_t* in, int64_t count, float* out) {
  const int64_t whole = count / kLanes;
  kWiden(in, whole, out);
  if (const int64_t done = whole * kLanes; done < count) {
    uint16_t rest[kLanes] = {};
    std::memcpy(rest, in + done, static_cast<size_t>(count - done) * 2);
    kWiden(rest, 1, out + done);
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
  key_range(span, padded(count) / kLanes, &low_key, &high_key);
  *low = value_of(low_key);
  *high = value_of(high_key);
  return high_key < kInfinityKey && low_key > ~kInfinityKey;
}

void divide_span(const float* span, int64_t count, float scale, float zero_point, float* out) {
  if (scale == 0.0f)
    std::fill(out, out + padded(count), zero_point);
  else
    divide_blocks(span, padded(count) / kLanes, scale, zero_point, out);
}

}  // namespace kbit::encode_detail
