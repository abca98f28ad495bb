// Fast mode without lookups, for codebooks on a line: codes are multiplied where they lie in a nibble, sums of a place are brought down by a shift
// at the end of the group. sdot takes signed bytes: codes of eight bits are multiplied as code − 128.
#include <arm_neon.h>

#include <cstdint>

#include "for_bits.h"
#include "neon.h"
#include "tile.h"

namespace kbit::neon {
namespace {

// Where the codes of a step lie: vector of the k-block, upper nibble or not, and bit of the nibble.
struct Field {
  int vector;
  bool upper;
  int bit;
};

constexpr Field field_of(int width, int step) {
  if (width == 8) return {step, false, 0};
  const int fields = 8 / width, at = width == 1 ? single_bit_position(step) : step % fields * width;
  return {step / fields, at >= 4, at % 4};
}

template <int Width>
class Adder {
 public:
  using Input = int8_t;
  static constexpr int64_t kEach = kBlockInputs;

  KBIT_INLINE Adder() {
    unroll<4 * kPlaces>([&]<int I>() KBIT_INLINE { place_[I / kPlaces][I % kPlaces] = vdupq_n_s32(0); });
  }

  KBIT_INLINE void add(const uint8_t* p, const int8_t* q) {
    const int8x16_t x[2] = {vld1q_s8(q), vld1q_s8(q + 16)};
    unroll<4>([&]<int Q>() KBIT_INLINE {
      unroll<8>([&]<int S>() KBIT_INLINE {
        constexpr Field field = field_of(Width, S);
        const uint8x16_t bytes = vld1q_u8(p + 64 * field.vector + 16 * Q);
        int32x4_t& sum = place_[Q][field.bit / Width];
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(codes<field.upper, field.bit>(bytes)), x[S / 4], S % 4);
      });
    });
  }

  template <int Q>
  KBIT_INLINE int32x4_t quarter() const {
    int32x4_t sum = place_[Q][kPlaces - 1];
    unroll<kPlaces - 1>([&]<int I>() KBIT_INLINE { sum = vaddq_s32(vshrq_n_s32(sum, Width), place_[Q][kPlaces - 2 - I]); });
    return sum;
  }

 private:
  static constexpr int kPlaces = Width >= 4 ? 1 : 4 / Width;  // of a nibble

  template <bool Upper, int Bit>
  static KBIT_INLINE uint8x16_t codes(uint8x16_t bytes) {
    if constexpr (Width == 8) return veorq_u8(bytes, vdupq_n_u8(0x80));
    if constexpr (Upper) bytes = vshrq_n_u8(bytes, 4);
    if constexpr (Upper && Width == 4) return bytes;
    return vandq_u8(bytes, vdupq_n_u8(static_cast<uint8_t>(((1 << Width) - 1) << Bit)));
  }

  int32x4_t place_[4][kPlaces];
};

}  // namespace

void integer(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t*) {
  CodeLine line;
  code_line(m, line);
  const int32_t offset = line.offset + (m.bits == 8 ? 128 * line.step : 0);
  for_bits(m.bits, [&]<int K>() {
    for (int64_t tile = begin; tile < end; ++tile) {
      for (int64_t t = 0; t < tokens; ++t) {
        const Token<int8_t> token{x.q + t * x.stride, {0, 0, 0}, x.scale + t * x.groups, x.sum + t * x.groups, offset};
        multiply_tile<K, Adder>(m, line, token, x.groups, tile, y + t * y_stride);
      }
    }
  });
}

}  // namespace kbit::neon
