// Fast mode: integer levels by tbl, int8 activations, exact integer dots by sdot.
//
// sdot multiplies signed bytes and adds four products in 32 bits, so nothing saturates whatever the codebook. Tables hold q − 128;
// identity books up to seven bits use their codes as they are, at eight bits codes − 128.
#include <arm_neon.h>

#include <cstdint>

#include "decode.h"
#include "for_bits.h"
#include "neon.h"
#include "scales.h"

namespace kbit::neon {
namespace {

// ---------------------------------------------------------------- from integer dots to outputs

// Signed bytes hold q − 128: their dot lacks 128 · Σ q_x.
template <Output Out>
constexpr int32_t kBias = Out == Output::codes ? 0 : 128;

// What a group's activations contribute for one token.
struct Factors {
  int32_t correction;    // (centre − bias) · Σ q_x
  float step_scale;      // step · a
  float activation_sum;  // a · Σ q_x

  KBIT_INLINE Factors(const Matrix& m, float scale, int32_t sum, int32_t bias)
      : correction((m.integer.centre - bias) * sum), step_scale(m.integer.step * scale), activation_sum(scale * static_cast<float>(sum)) {}
};

// total + scale · (step·a·dot + (base − zero)·a·Σ q_x), fused as in the oracle.
KBIT_INLINE inline float32x4_t finish(float32x4_t total, int32x4_t sum, const Factors& f, float32x4_t scale, float32x4_t shifted_base) {
  const float32x4_t dot = vcvtq_f32_s32(vsubq_s32(sum, vdupq_n_s32(f.correction)));
  const float32x4_t rest = vmulq_n_f32(shifted_base, f.activation_sum);
  return vfmaq_f32(total, scale, vfmaq_n_f32(rest, dot, f.step_scale));
}

// What a group's weights contribute: scales and base − zero point of its rows.
struct GroupRows {
  Rows scale, shifted_base;

  KBIT_INLINE GroupRows(const Matrix& m, int64_t tile, int64_t activation_group) {
    const int64_t group = activation_group * m.activation_group / m.group_size;
    scale = load_scales(m, tile, group);
    shifted_base = load_zeros(m, tile, group);
    unroll<4>([&]<int Q>() KBIT_INLINE { shifted_base.quarter[Q] = vsubq_f32(vdupq_n_f32(m.integer.base), shifted_base.quarter[Q]); });
  }
};

// ---------------------------------------------------------------- one token

// Dots of a tile with one token; the two units (sixteen inputs) of a k-block are summed apart.
struct Dot {
  int32x4_t sum[4][2];

  KBIT_INLINE Dot() {
    unroll<8>([&]<int I>() KBIT_INLINE { sum[I / 2][I % 2] = vdupq_n_s32(0); });
  }
  template <Output Out, int K>
  KBIT_INLINE void add(const Cursor<K>& cursor, const TablesOf<K>& tables, const int8_t* q) {
    const int8x16_t x[2] = {vld1q_s8(q), vld1q_s8(q + 16)};
    cursor.template decode<Out>(tables, [&]<int Q, int S>(uint8x16_t w) KBIT_INLINE {
      sum[Q][S / 4] = vdotq_laneq_s32(sum[Q][S / 4], vreinterpretq_s8_u8(w), x[S / 4], S % 4);
    });
  }
};

template <int K, Output Out>
void vector_tile(const Matrix& m, const TableBytes& bytes, const Activations& x, int64_t tile, float* y) {
  const TablesOf<K> tables(bytes);
  Cursor<K> cursor(m, tile);
  Rows total = Rows::all(0.0f);
  int64_t block = 0;
  for (int64_t a = 0; a < x.groups; ++a) {
    const int64_t end = a + 1 == x.groups ? m.kblocks : (a + 1) * m.activation_group / kBlockInputs;
    Dot dot;
    for (; block < end; ++block, cursor.next()) dot.add<Out>(cursor, tables, x.q + block * kBlockInputs);
    const GroupRows rows(m, tile, a);
    const Factors f(m, x.scale[a], x.sum[a], kBias<Out>);
    unroll<4>([&]<int Q>() KBIT_INLINE {
      const int32x4_t sum = vaddq_s32(dot.sum[Q][0], dot.sum[Q][1]);
      total.quarter[Q] = finish(total.quarter[Q], sum, f, rows.scale.quarter[Q], rows.shifted_base.quarter[Q]);
    });
  }
  store_rows(m, tile, y, total);
}

// The same where groups end in the middle of a k-block (sizes 16, 48, 80, 112).
template <int K, Output Out>
void vector_tile_units(const Matrix& m, const TableBytes& bytes, const Activations& x, int64_t tile, float* y) {
  const TablesOf<K> tables(bytes);
  Cursor<K> cursor(m, tile);
  Rows total = Rows::all(0.0f);
  int32x4_t sum[4];
  unroll<4>([&]<int Q>() KBIT_INLINE { sum[Q] = vdupq_n_s32(0); });
  int64_t a = 0;
  for (int64_t block = 0; block < m.kblocks; ++block, cursor.next()) {
    Dot dot;
    dot.add<Out>(cursor, tables, x.q + block * kBlockInputs);
    unroll<2>([&]<int Unit>() KBIT_INLINE {
      unroll<4>([&]<int Q>() KBIT_INLINE { sum[Q] = vaddq_s32(sum[Q], dot.sum[Q][Unit]); });
      const int64_t done = 2 * block + Unit + 1;
      const bool last = a + 1 == x.groups;
      if (last ? done != 2 * m.kblocks : done * 16 != (a + 1) * m.activation_group) return;
      const GroupRows rows(m, tile, a);
      const Factors f(m, x.scale[a], x.sum[a], kBias<Out>);
      unroll<4>([&]<int Q>() KBIT_INLINE {
        total.quarter[Q] = finish(total.quarter[Q], sum[Q], f, rows.scale.quarter[Q], rows.shifted_base.quarter[Q]);
        sum[Q] = vdupq_n_s32(0);
      });
      ++a;
    });
  }
  store_rows(m, tile, y, total);
}

template <int K, Output Out>
void vector_tiles(const Matrix& m, const TableBytes& bytes, const Activations& x, float* y, int64_t begin, int64_t end) {
  if (m.activation_group % kBlockInputs == 0) {
    for (int64_t tile = begin; tile < end; ++tile) vector_tile<K, Out>(m, bytes, x, tile, y);
  } else {
    for (int64_t tile = begin; tile < end; ++tile) vector_tile_units<K, Out>(m, bytes, x, tile, y);
  }
}

// ---------------------------------------------------------------- many tokens

// Products of `Tokens` tokens with a decoded tile over the units [begin, end) (sixteen inputs each), added to `sum`.
template <int Tokens>
KBIT_INLINE inline void block_dot(const uint8_t* strip, const int8_t* const* q, int64_t begin, int64_t end, int32x4_t (&sum)[Tokens][4]) {
  for (int64_t unit = begin; unit < end; ++unit) {
    int8x16_t x[Tokens];
    unroll<Tokens>([&]<int T>() KBIT_INLINE { x[T] = vld1q_s8(q[T] + 16 * unit); });
    unroll<4>([&]<int S>() KBIT_INLINE {
      unroll<4>([&]<int Q>() KBIT_INLINE {
        const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(strip + 64 * (4 * unit + S) + 16 * Q));
        unroll<Tokens>([&]<int T>() KBIT_INLINE { sum[T][Q] = vdotq_laneq_s32(sum[T][Q], w, x[T], S); });
      });
    });
  }
}

template <int Tokens>
void multiply_tile(const Matrix& m, const Activations& x, int32_t bias, const uint8_t* strip, int64_t tile, int64_t token, float* y, int64_t y_stride) {
  const int8_t* q[Tokens];
  Rows total[Tokens];
  unroll<Tokens>([&]<int T>() KBIT_INLINE {
    q[T] = x.q + (token + T) * x.stride;
    total[T] = Rows::all(0.0f);
  });
  for (int64_t a = 0; a < x.groups; ++a) {
    const int64_t begin = a * m.activation_group / 16;
    const int64_t end = a + 1 == x.groups ? m.kblocks * (kBlockInputs / 16) : (a + 1) * m.activation_group / 16;
    int32x4_t sum[Tokens][4];
    unroll<Tokens * 4>([&]<int I>() KBIT_INLINE { sum[I / 4][I % 4] = vdupq_n_s32(0); });
    block_dot<Tokens>(strip, q, begin, end, sum);
    const GroupRows rows(m, tile, a);
    unroll<Tokens>([&]<int T>() KBIT_INLINE {
      const int64_t index = (token + T) * x.groups + a;
      const Factors f(m, x.scale[index], x.sum[index], bias);
      unroll<4>([&]<int Q>() KBIT_INLINE {
        total[T].quarter[Q] = finish(total[T].quarter[Q], sum[T][Q], f, rows.scale.quarter[Q], rows.shifted_base.quarter[Q]);
      });
    });
  }
  unroll<Tokens>([&]<int T>() KBIT_INLINE { store_rows(m, tile, y + (token + T) * y_stride, total[T]); });
}

void multiply_strip(const Matrix& m, const Activations& x, int64_t tokens, int32_t bias, const uint8_t* strip, int64_t begin, int64_t end,
                    float* y, int64_t y_stride) {
  const int64_t tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  const auto tiles = [&]<int Tokens>(int64_t token) {
    for (int64_t tile = begin; tile < end; ++tile) multiply_tile<Tokens>(m, x, bias, strip + (tile - begin) * tile_bytes, tile, token, y, y_stride);
  };
  int64_t token = 0;
  for (; token + 4 <= tokens; token += 4) tiles.template operator()<4>(token);
  switch (tokens - token) {
    case 1: return tiles.template operator()<1>(token);
    case 2: return tiles.template operator()<2>(token);
    case 3: return tiles.template operator()<3>(token);
    default: return;
  }
}

template <int K, Output Out>
void run(const Matrix& m, const TableBytes& bytes, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end,
         uint8_t* scratch) {
  if (tokens == 1) return vector_tiles<K, Out>(m, bytes, x, y, begin, end);
  const int64_t step = tiles_per_strip(m), tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  for (int64_t tile = begin; tile < end; tile += step) {
    const int64_t stop = tile + step < end ? tile + step : end;
    for (int64_t t = tile; t < stop; ++t) decode_tile<K, Out>(m, bytes, t, scratch + (t - tile) * tile_bytes);
    multiply_strip(m, x, tokens, kBias<Out>, scratch, tile, stop, y, y_stride);
  }
}

}  // namespace

void multiply_decoded(const Matrix& m, const Activations& x, int64_t tokens, const uint8_t* strip, int64_t begin, int64_t end, float* y, int64_t y_stride) {
  multiply_strip(m, x, tokens, 128, strip, begin, end, y, y_stride);
}

void fast(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  if (m.dims > 1) return joint(m, x, tokens, y, y_stride, begin, end, scratch);
  uint8_t value[256];
  for (int code = 0; code < 256; ++code) value[code] = static_cast<uint8_t>(m.integer.q[code] ^ 0x80);
  const TableBytes bytes(m.trellis ? 6 : m.bits, value);
  for_kind(m, [&]<int K>() {
    if constexpr (K >= 4 && !is_trellis(K)) {  // below, the lookup is also what separates the codes
      constexpr Output plain = K == 8 ? Output::shifted : Output::codes;
      if (m.integer.identity) return run<K, plain>(m, bytes, x, tokens, y, y_stride, begin, end, scratch);
    }
    run<K, Output::levels>(m, bytes, x, tokens, y, y_stride, begin, end, scratch);
  });
}

}  // namespace kbit::neon
