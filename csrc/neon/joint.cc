// Fast mode of a joint codebook: codes are decoded once and looked up for each component, one token straight from the planes, more by decoded
// tiles.
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "decode.h"
#include "for_joint.h"
#include "neon.h"
#include "scales.h"

namespace kbit::neon {
namespace {

// Below four bits a lookup separates the codes.
template <int K>
constexpr Output kCodes = K < 4 ? Output::levels : Output::codes;

struct ComponentBytes {
  uint8_t itself[256], of[kMostDims][256];  // q − 128 as signed bytes

  explicit ComponentBytes(const IntCodebook& book) {
    std::memset(of, 0, sizeof of);
    for (int code = 0; code < 256; ++code) itself[code] = static_cast<uint8_t>(code);
    for (int c = 0; c < kMostDims; ++c) {
      for (int i = 0; i < kJointEntries; ++i) of[c][i] = static_cast<uint8_t>(book.q[kJointEntries * c + i] ^ 0x80);
    }
  }
};

template <int K, int D>
struct JointTables {
  using Component = Tables<(K < 4 ? 4 : K)>;
  Tables<K> codes;
  Component component[D];

  explicit JointTables(const ComponentBytes& bytes) : JointTables(bytes, std::make_integer_sequence<int, D>()) {}

 private:
  template <int... C>
  JointTables(const ComponentBytes& bytes, std::integer_sequence<int, C...>)
      : codes(TableBytes(K, bytes.itself)), component{Component(TableBytes(K < 4 ? 4 : K, bytes.of[C]))...} {}
};

// emit.template operator()<Quarter, Step, Component>(register) for a k-block.
template <int K, int D, class Emit>
KBIT_INLINE inline void decode_joint(const Cursor<K>& cursor, const JointTables<K, D>& tables, Emit&& emit) {
  cursor.template decode<kCodes<K>>(tables.codes, [&]<int Q, int S>(uint8x16_t codes) KBIT_INLINE {
    unroll<D>([&]<int C>() KBIT_INLINE { emit.template operator()<Q, S, C>(tables.component[C](codes)); });
  });
}

template <int K, int D>
void vector_tile(const Matrix& m, const JointTables<K, D>& tables, const Activations& x, int64_t tile, float* y) {
  Cursor<K> cursor(m, tile);
  Rows total = Rows::all(0.0f);
  const int8_t* q = x.q;
  for (int64_t a = 0, block = 0; a < x.groups; ++a) {
    const int64_t end = a + 1 == x.groups ? m.kblocks : (a + 1) * m.activation_group / kBlockInputs;
    int32x4_t sum[4];
    unroll<4>([&]<int Q>() KBIT_INLINE { sum[Q] = vdupq_n_s32(0); });
    for (; block < end; ++block, cursor.next(), q += D * kBlockInputs) {
      int8x16_t inputs[D][2];
      unroll<2 * D>([&]<int I>() KBIT_INLINE { inputs[I / 2][I % 2] = vld1q_s8(q + 16 * I); });
      decode_joint(cursor, tables, [&]<int Q, int S, int C>(uint8x16_t w) KBIT_INLINE {
        sum[Q] = vdotq_laneq_s32(sum[Q], vreinterpretq_s8_u8(w), inputs[C][S / 4], S % 4);
      });
    }
    const int64_t group = a * m.activation_group / m.group_size;
    const Rows scale = load_scales(m, tile, group), zero = load_zeros(m, tile, group);
    const int32x4_t start = vdupq_n_s32((128 - m.integer.centre) * x.sum[a]);
    const float activation_sum = x.scale[a] * static_cast<float>(x.sum[a]);
    unroll<4>([&]<int Q>() KBIT_INLINE {
      // total + scale · (step·a·dot + (base − zero)·a·Σ q_x), fused as in the oracle
      const float32x4_t dot = vcvtq_f32_s32(vaddq_s32(start, sum[Q]));
      const float32x4_t rest = vmulq_n_f32(vsubq_f32(vdupq_n_f32(m.integer.base), zero.quarter[Q]), activation_sum);
      total.quarter[Q] = vfmaq_f32(total.quarter[Q], scale.quarter[Q], vfmaq_n_f32(rest, dot, m.integer.step * x.scale[a]));
    });
  }
  store_rows(m, tile, y, total);
}

template <int K, int D>
void from_strips(const Matrix& m, const JointTables<K, D>& tables, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin,
                 int64_t end, uint8_t* scratch) {
  const Matrix decoded = flat(m);
  const int64_t step = tiles_per_strip(m);
  for (int64_t tile = begin; tile < end; tile += step) {
    const int64_t stop = tile + step < end ? tile + step : end;
    for (int64_t t = tile; t < stop; ++t) {
      uint8_t* out = scratch + (t - tile) * decoded_bytes(m);
      Cursor<K> cursor(m, t);
      for (int64_t block = 0; block < m.kblocks; ++block, cursor.next(), out += D * kBlockInputs * kTileRows) {
        decode_joint(cursor, tables, [&]<int Q, int S, int C>(uint8x16_t w) KBIT_INLINE { vst1q_u8(out + kBlockInputs * kTileRows * C + 64 * S + 16 * Q, w); });
      }
    }
    multiply_decoded(decoded, x, tokens, scratch, tile, stop, y, y_stride);
  }
}

}  // namespace

void joint(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  const ComponentBytes bytes(m.integer);
  for_joint(m.bits, m.dims, [&]<int K, int D>() {
    const JointTables<K, D> tables(bytes);
    if (tokens > 1) return from_strips<K, D>(m, tables, x, tokens, y, y_stride, begin, end, scratch);
    for (int64_t tile = begin; tile < end; ++tile) vector_tile<K, D>(m, tables, x, tile, y);
  });
}

}  // namespace kbit::neon
