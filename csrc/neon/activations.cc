// Activations to int8, one scale a group: the same bytes as the oracle, since nearest-even rounding is the hardware's.
#include <arm_neon.h>

#include <cfloat>
#include <cmath>
#include <cstring>

#include "neon.h"
#include "unroll.h"

namespace kbit::neon {
namespace {

constexpr int64_t kUnit = 16;  // inputs handled at once

// Largest magnitude of `count` (a multiple of kUnit) inputs; `finite` tells whether none is NaN or Inf.
float largest_of(const float* x, int64_t count, bool& finite) {
  float32x4_t largest[4];
  uint32x4_t within[4];
  unroll<4>([&]<int I>() KBIT_INLINE { largest[I] = vdupq_n_f32(0.0f), within[I] = vdupq_n_u32(~0u); });
  for (int64_t i = 0; i < count; i += kUnit) {
    unroll<4>([&]<int I>() KBIT_INLINE {
      const float32x4_t magnitude = vabsq_f32(vld1q_f32(x + i + 4 * I));
      within[I] = vandq_u32(within[I], vcleq_f32(magnitude, vdupq_n_f32(FLT_MAX)));
      largest[I] = vmaxq_f32(largest[I], magnitude);
    });
  }
  finite = vminvq_u32(vandq_u32(vandq_u32(within[0], within[1]), vandq_u32(within[2], within[3]))) != 0;
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(largest[0], largest[1]), vmaxq_f32(largest[2], largest[3])));
}

// `count` inputs times `inverse` to int8; returns their sum.
int32_t round_all(const float* x, int64_t count, float inverse, int8_t* q) {
  int32x4_t sum = vdupq_n_s32(0);
  for (int64_t i = 0; i < count; i += kUnit) {
    int32x4_t v[4];
    unroll<4>([&]<int I>() KBIT_INLINE {
      v[I] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4 * I), inverse));
      sum = vaddq_s32(sum, v[I]);
    });
    const int16x8_t low = vcombine_s16(vqmovn_s32(v[0]), vqmovn_s32(v[1])), high = vcombine_s16(vqmovn_s32(v[2]), vqmovn_s32(v[3]));
    vst1q_s8(q + i, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
  }
  return vaddvq_s32(sum);
}

}  // namespace

void quantize(const Matrix& matrix, const float* x, int8_t* q, float* scale, int32_t* sum) {
  const int64_t size = matrix.activation_group;
  const int64_t groups = ceil_div(matrix.cols, size);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * size;
    const int64_t count = begin + size < matrix.cols ? size : matrix.cols - begin;
    const int64_t padded = ceil_div(count, kUnit) * kUnit;
    float tail[128];  // a ragged last group, padded with zeros
    const float* from = x + begin;
    if (padded != count) {
      std::memset(tail, 0, sizeof tail);
      std::memcpy(tail, from, static_cast<size_t>(count) * sizeof(float));
      from = tail;
    }
    bool finite;
    const float largest = largest_of(from, padded, finite);
    sum[g] = 0;
    if (!finite || largest < kSmallestActivation) {
      scale[g] = finite ? 0.0f : NAN;
      std::memset(q + begin, 0, static_cast<size_t>(padded));
      continue;
    }
    scale[g] = largest / 127.0f;
    sum[g] = round_all(from, padded, 127.0f / largest, q + begin);
  }
  const int64_t written = ceil_div(matrix.cols, kUnit) * kUnit;
  std::memset(q + written, 0, static_cast<size_t>(matrix.kblocks * kBlockInputs - written));
}

}  // namespace kbit::neon
