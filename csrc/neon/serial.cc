// Fast mode bit by bit (csrc/serial.h): AND, cnt for each byte, and sdot to add the counts with their powers of two.
#include <arm_neon.h>

#include <cstdint>

#include "neon.h"
#include "serial.h"
#include "tile.h"

namespace kbit::neon {
namespace {

template <int Width>
class Adder {
 public:
  using Input = uint32_t;
  static constexpr int64_t kEach = serial_block_words(Width);

  KBIT_INLINE Adder() {
    unroll<4>([&]<int Q>() KBIT_INLINE { low_[Q] = high_[Q] = vdupq_n_s32(0); });
  }

  KBIT_INLINE void add(const uint8_t* p, const uint32_t* words) {
    for (int vector = 0; vector < Width; ++vector, p += 64, words += serial_words(Width)) {
      uint8x16_t v[4];
      unroll<4>([&]<int Q>() KBIT_INLINE { v[Q] = vld1q_u8(p + 16 * Q); });
      unroll<serial_words(Width)>([&]<int W>() KBIT_INLINE {
        // Weights are signed bytes: those beyond are counted in units of 128.
        constexpr int weight = serial_weight(Width, W);
        constexpr bool large = weight < -128 || weight > 127;
        const uint8x16_t word = vreinterpretq_u8_u32(vld1q_dup_u32(words + W));
        const int8x16_t factor = vdupq_n_s8(static_cast<int8_t>(large ? weight / 128 : weight));
        unroll<4>([&]<int Q>() KBIT_INLINE {
          const int8x16_t counts = vreinterpretq_s8_u8(vcntq_u8(vandq_u8(v[Q], word)));
          int32x4_t& sum = large ? high_[Q] : low_[Q];
          sum = vdotq_s32(sum, counts, factor);
        });
      });
    }
  }

  template <int Q>
  KBIT_INLINE int32x4_t quarter() const {
    return vmlaq_n_s32(low_[Q], high_[Q], 128);
  }

 private:
  int32x4_t low_[4], high_[4];
};

// As many tokens at once as the scratch holds the words of.
template <int K>
void run(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  CodeLine line;
  code_line(m, line);
  auto* words = reinterpret_cast<uint32_t*>(scratch);
  const int64_t each = serial_offset(m, plane_count(K)), room = scratch_bytes(m) / (4 * each);
  for (int64_t from = 0; from < tokens; from += room) {
    const int64_t stop = tokens - from < room ? tokens : from + room;
    uint32_t* out = words;
    for (int64_t t = from; t < stop; ++t) cut_words(m, x.q + t * x.stride, [&](uint32_t word) { *out++ = word; });
    for (int64_t tile = begin; tile < end; ++tile) {
      for (int64_t t = from; t < stop; ++t) {
        const int64_t at = t * x.groups;
        const Token<uint32_t> token{words + (t - from) * each, {0, serial_offset(m, 1), 0}, x.scale + at, x.sum + at, line.offset};
        multiply_tile<K, Adder>(m, line, token, x.groups, tile, y + t * y_stride);
      }
    }
  }
}

}  // namespace

void serial(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  switch (m.bits) {
    case 1: return run<1>(m, x, tokens, y, y_stride, begin, end, scratch);
    case 2: return run<2>(m, x, tokens, y, y_stride, begin, end, scratch);
    case 3: return run<3>(m, x, tokens, y, y_stride, begin, end, scratch);
    default: return run<4>(m, x, tokens, y, y_stride, begin, end, scratch);
  }
}

}  // namespace kbit::neon
