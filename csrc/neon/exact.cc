// Exact mode: fp32 levels, one product and one addition an input (never fused), four rows in the lanes of a register.
#include <arm_neon.h>

#include <cstdint>

#include "decode.h"
#include "for_bits.h"
#include "neon.h"
#include "scales.h"

namespace kbit::neon {
namespace {

// fp32 levels of four codes, byte J of each 32-bit lane of 16 bytes of a strip. Up to sixteen levels (k ≤ 4) their bytes are a table
// in registers; beyond, four loads.
template <bool InRegisters>
struct Levels {
  const float* table;

  explicit Levels(const float* levels) : table(levels) {}
  template <int J>
  KBIT_INLINE float32x4_t at(const uint8_t* codes) const {
    float32x4_t level = vld1q_dup_f32(table + codes[J]);
    unroll<3>([&]<int R>() KBIT_INLINE { level = vld1q_lane_f32(table + codes[4 * (R + 1) + J], level, R + 1); });
    return level;
  }
};

template <>
struct Levels<true> {
  uint8x16x4_t table;  // the sixteen floats' bytes

  explicit Levels(const float* levels) : table(vld1q_u8_x4(reinterpret_cast<const uint8_t*>(levels))) {}
  template <int J>
  KBIT_INLINE float32x4_t at(const uint8_t* codes) const {
    // Four times the code in each byte of its lane, plus 0 1 2 3.
    const uint8x16_t spread = {J, J, J, J, 4 + J, 4 + J, 4 + J, 4 + J, 8 + J, 8 + J, 8 + J, 8 + J, 12 + J, 12 + J, 12 + J, 12 + J};
    const uint8x16_t bytes = vreinterpretq_u8_u32(vdupq_n_u32(0x03020100));
    const uint8x16_t first = vqtbl1q_u8(vshlq_n_u8(vld1q_u8(codes), 2), spread);
    return vreinterpretq_f32_u8(vqtbl4q_u8(table, vorrq_u8(first, bytes)));
  }
};

// Dots of rows 4·First … 4·(First + Quarters) − 1 of a decoded tile with `Tokens` tokens over the inputs [begin, end) of a group.
// A function of its own, so that the totals around it do not take registers from this loop. A code stands for D inputs.
template <bool InRegisters, int D, int Tokens, int First, int Quarters>
__attribute__((noinline)) void group_dots(const Matrix& m, const uint8_t* strip, const Rows& zeros, const float* x, int64_t begin, int64_t end,
                                          Rows (&dots)[Tokens]) {
  const Levels<InRegisters> levels[3] = {Levels<InRegisters>(m.levels), Levels<InRegisters>(m.levels + (D > 1 ? kJointEntries : 0)),
                                         Levels<InRegisters>(m.levels + (D > 2 ? 2 * kJointEntries : 0))};
  const int64_t stride = m.inputs;
  float32x4_t zero[Quarters], dot[Tokens][Quarters];
  unroll<Quarters>([&]<int Q>() KBIT_INLINE { zero[Q] = zeros.quarter[First + Q]; });
  unroll<Tokens * Quarters>([&]<int I>() KBIT_INLINE { dot[I / Quarters][I % Quarters] = vdupq_n_f32(0.0f); });
  const auto input = [&]<int J>(int64_t i) KBIT_INLINE {
    const uint8_t* codes = strip + i / 4 * 64 + 16 * First;
    unroll<D>([&]<int C>() KBIT_INLINE {
      if (D > 1 && D * i + C >= m.inputs) return;
      float32x4_t level[Quarters];
      unroll<Quarters>([&]<int Q>() KBIT_INLINE { level[Q] = vsubq_f32(levels[C].template at<J>(codes + 16 * Q), zero[Q]); });
      unroll<Tokens>([&]<int T>() KBIT_INLINE {
        const float value = x[T * stride + D * i + C];
        unroll<Quarters>([&]<int Q>() KBIT_INLINE { dot[T][Q] = vaddq_f32(dot[T][Q], vmulq_n_f32(level[Q], value)); });
      });
    });
  };
  int64_t i = begin;  // a multiple of four
  for (; i + 4 <= end; i += 4) unroll<4>([&]<int J>() KBIT_INLINE { input.template operator()<J>(i + J); });
  unroll<3>([&]<int J>() KBIT_INLINE {
    if (i + J < end) input.template operator()<J>(i + J);
  });
  unroll<Tokens * Quarters>([&]<int I>() KBIT_INLINE { dots[I / Quarters].quarter[First + I % Quarters] = dot[I / Quarters][I % Quarters]; });
}

template <bool InRegisters, int D, int Tokens>
void multiply_tile(const Matrix& m, const float* x, const uint8_t* strip, int64_t tile, int64_t token, float* y, int64_t y_stride) {
  constexpr int quarters = 2;  // at a time: enough independent sums to hide an addition's latency, and no register spilled
  Rows total[Tokens], dots[Tokens];
  unroll<Tokens>([&]<int T>() KBIT_INLINE { total[T] = Rows::all(0.0f); });
  for (int64_t group = 0; group < m.groups; ++group) {
    const int64_t begin = group * m.group_size;
    const int64_t end = group + 1 == m.groups ? m.cols : begin + m.group_size;
    const Rows zeros = load_zeros(m, tile, group);
    unroll<4 / quarters>([&]<int Pass>() KBIT_INLINE {
      group_dots<InRegisters, D, Tokens, Pass * quarters, quarters>(m, strip, zeros, x + token * m.inputs, begin, end, dots);
    });
    const Rows scale = load_scales(m, tile, group);
    unroll<Tokens * 4>([&]<int I>() KBIT_INLINE {
      constexpr int t = I / 4, q = I % 4;
      total[t].quarter[q] = vaddq_f32(total[t].quarter[q], vmulq_f32(scale.quarter[q], dots[t].quarter[q]));
    });
  }
  unroll<Tokens>([&]<int T>() KBIT_INLINE { store_rows(m, tile, y + (token + T) * y_stride, total[T]); });
}

template <bool InRegisters, int D>
void multiply(const Matrix& m, const float* x, int64_t tokens, const uint8_t* strip, int64_t tile, float* y, int64_t y_stride) {
  int64_t token = 0;
  for (; token + 4 <= tokens; token += 4) multiply_tile<InRegisters, D, 4>(m, x, strip, tile, token, y, y_stride);
  for (; token < tokens; ++token) multiply_tile<InRegisters, D, 1>(m, x, strip, tile, token, y, y_stride);
}

}  // namespace

void exact(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* strip) {
  uint8_t value[256];
  for (int code = 0; code < 256; ++code) value[code] = static_cast<uint8_t>(code);
  const TableBytes bytes(m.trellis ? 6 : m.bits, value);
  for (int64_t tile = begin; tile < end; ++tile) {
    for_kind(m, [&]<int K>() { decode_tile<K, K <= 3 ? Output::levels : Output::codes>(m, bytes, tile, strip); });
    const auto run = [&]<int D>() {
      if (m.bits <= 4 && !m.trellis) multiply<true, D>(m, x, tokens, strip, tile, y, y_stride);
      else multiply<false, D>(m, x, tokens, strip, tile, y, y_stride);
    };
    if (m.dims == 1) run.template operator()<1>();
    else if (m.dims == 2) run.template operator()<2>();
    else run.template operator()<3>();
  }
}

}  // namespace kbit::neon
