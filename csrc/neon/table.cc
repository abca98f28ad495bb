// The NEON table, and the loops that measure what this instruction set can do at best.
#include <arm_neon.h>

#include "neon.h"
#include "unroll.h"

namespace kbit {
namespace neon {

uint64_t read(const uint8_t* data, int64_t bytes) {
  uint64x2_t sum[8];
  unroll<8>([&]<int I>() KBIT_INLINE { sum[I] = vdupq_n_u64(0); });
  for (int64_t i = 0; i < bytes; i += 128) {
    unroll<8>([&]<int I>() KBIT_INLINE { sum[I] = vaddq_u64(sum[I], vreinterpretq_u64_u8(vld1q_u8(data + i + 16 * I))); });
  }
  unroll<7>([&]<int I>() KBIT_INLINE { sum[0] = vaddq_u64(sum[0], sum[I + 1]); });
  return vaddvq_u64(sum[0]);
}

// sdot does sixteen multiply-adds; sixteen independent chains hide its latency.
int64_t dot_products(int64_t rounds) {
  constexpr int chains = 16;
  volatile int8_t start = 3;
  const int8x16_t x = vdupq_n_s8(start);
  const int8x16_t w = vdupq_n_s8(start);
  int32x4_t sum[chains];
  unroll<chains>([&]<int I>() KBIT_INLINE { sum[I] = vdupq_n_s32(I); });
  for (int64_t r = 0; r < rounds; ++r) {
    unroll<chains>([&]<int I>() KBIT_INLINE { sum[I] = vdotq_s32(sum[I], w, x); });
  }
  unroll<chains - 1>([&]<int I>() KBIT_INLINE { sum[0] = vaddq_s32(sum[0], sum[I + 1]); });
  volatile int32_t sink = vgetq_lane_s32(sum[0], 0);
  static_cast<void>(sink);
  return rounds * chains * 16;
}

const VariantKernels variants{nullptr, integer, serial};

}  // namespace neon

const Kernels neon_kernels{"neon", neon::quantize, neon::fast, neon::exact, neon::read, neon::dot_products, &neon_vector_ops, &neon::variants};

}  // namespace kbit
