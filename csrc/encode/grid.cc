#include "grid.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace kbit::encode_detail {
namespace {

constexpr int kDirectLevels = 16;
constexpr int kBuckets = 1 << 16;
constexpr uint32_t kFiniteBuckets = 0x7f80;  // of one sign; Inf and NaN follow

inline uint32_t bucket_of(float t) { return std::bit_cast<uint32_t>(t) >> 16; }

// `kLevels` is a power of two; midpoints past the last level are Inf and count for nothing.
template <int kLevels>
__attribute__((always_inline)) inline void count_midpoints(const float* t, int64_t count, const float* middle, uint8_t* out) {
  for (int64_t i = 0; i < count; i += kSpanAlign) {
    Floats low, high;
    std::memcpy(&low, t + i, sizeof low);
    std::memcpy(&high, t + i + kLanes, sizeof high);
    Ints low_code = {}, high_code = {};
#pragma GCC unroll 16
    for (int k = 0; k < kLevels - 1; ++k) {
      low_code -= low > middle[k];  // a comparison is -1 where it holds
      high_code -= high > middle[k];
    }
    const Bytes low_bytes = __builtin_convertvector(low_code, Bytes), high_bytes = __builtin_convertvector(high_code, Bytes);
    std::memcpy(out + i, &low_bytes, sizeof low_bytes);
    std::memcpy(out + i + kLanes, &high_bytes, sizeof high_bytes);
  }
}

template <int kLevels>
__attribute__((always_inline)) inline void pick_levels(const float* t, int64_t count, const float* middle, const float* level, float* out) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Floats at;
    std::memcpy(&at, t + i, sizeof at);
    Floats value = Floats{} + level[0];
#pragma GCC unroll 16
    for (int k = 0; k < kLevels - 1; ++k) value = at > middle[k] ? Floats{} + level[k + 1] : value;
    std::memcpy(out + i, &value, sizeof value);
  }
}

KBIT_CLONES void codes_2(const float* t, int64_t n, const float* middle, uint8_t* out) { count_midpoints<2>(t, n, middle, out); }
KBIT_CLONES void codes_4(const float* t, int64_t n, const float* middle, uint8_t* out) { count_midpoints<4>(t, n, middle, out); }
KBIT_CLONES void codes_8(const float* t, int64_t n, const float* middle, uint8_t* out) { count_midpoints<8>(t, n, middle, out); }
KBIT_CLONES void codes_16(const float* t, int64_t n, const float* middle, uint8_t* out) { count_midpoints<16>(t, n, middle, out); }

KBIT_CLONES void values_2(const float* t, int64_t n, const float* m, const float* level, float* out) { pick_levels<2>(t, n, m, level, out); }
KBIT_CLONES void values_4(const float* t, int64_t n, const float* m, const float* level, float* out) { pick_levels<4>(t, n, m, level, out); }
KBIT_CLONES void values_8(const float* t, int64_t n, const float* m, const float* level, float* out) { pick_levels<8>(t, n, m, level, out); }
KBIT_CLONES void values_16(const float* t, int64_t n, const float* m, const float* level, float* out) { pick_levels<16>(t, n, m, level, out); }

// One midpoint a bucket needs no loop; crowded buckets (degenerate codebooks) end their search early.
inline int bucket_code(float t, int steps, const uint8_t* first_code, const float* middle) {
  int code = first_code[bucket_of(t)];
  if (steps <= 1) return code + (middle[code] < t ? 1 : 0);
  while (middle[code] < t) ++code;
  return code;
}

}  // namespace

Grid::Grid(const float* levels, int n_levels) : n_levels_(n_levels) {
  for (int code = 0; code < 256; ++code) {
    level_[code] = levels[std::min(code, n_levels - 1)];
    middle_[code] = code + 1 < n_levels ? (levels[code] + levels[code + 1]) * 0.5f : std::numeric_limits<float>::infinity();
  }
  if (n_levels > kDirectLevels) build_buckets();
}

// Walks the buckets from the most negative floats to the most positive, and the midpoints with them.
void Grid::build_buckets() {
  first_code_.assign(kBuckets, 0);
  int code = 0;
  const auto visit = [&](uint32_t bucket, uint32_t lowest, uint32_t highest) {
    const float low = std::bit_cast<float>(lowest), high = std::bit_cast<float>(highest);
    while (middle_[code] < low) ++code;
    first_code_[bucket] = static_cast<uint8_t>(code);
    int last = code;
    while (middle_[last] < high) ++last;
    bucket_steps_ = std::max(bucket_steps_, last - code);
  };
  visit(0xff80, 0xff800000, 0xff800000);
  for (uint32_t magnitude = kFiniteBuckets; magnitude-- > 0;) {
    const uint32_t bucket = magnitude | 0x8000;
    visit(bucket, bucket << 16 | 0xffff, bucket << 16);
  }
  for (uint32_t bucket = 0; bucket < kFiniteBuckets; ++bucket) visit(bucket, bucket << 16, bucket << 16 | 0xffff);
  visit(0x7f80, 0x7f800000, 0x7f800000);
}

void Grid::codes(const float* t, int64_t count, uint8_t* out) const {
  if (n_levels_ <= 2) return codes_2(t, count, middle_, out);
  if (n_levels_ <= 4) return codes_4(t, count, middle_, out);
  if (n_levels_ <= 8) return codes_8(t, count, middle_, out);
  if (n_levels_ <= 16) return codes_16(t, count, middle_, out);
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(bucket_code(t[i], bucket_steps_, first_code_.data(), middle_));
}

void Grid::values(const float* t, int64_t count, float* out) const {
  if (n_levels_ <= 2) return values_2(t, count, middle_, level_, out);
  if (n_levels_ <= 4) return values_4(t, count, middle_, level_, out);
  if (n_levels_ <= 8) return values_8(t, count, middle_, level_, out);
  if (n_levels_ <= 16) return values_16(t, count, middle_, level_, out);
  for (int64_t i = 0; i < count; ++i) out[i] = level_[bucket_code(t[i], bucket_steps_, first_code_.data(), middle_)];
}

bool Grid::antisymmetric() const {
  for (int code = 0; code < n_levels_; ++code)
    if (level_[code] != -level_[n_levels_ - 1 - code]) return false;
  return true;
}

}  // namespace kbit::encode_detail
