// Fast mode without lookups, for codebooks on a line: codes are multiplied where they lie in the byte.
//
// A field at bit p of a masked byte is 2^p · code. Up to bit 3 the products of eight maddubs fit into 16 bits (8 · 2 · 15 · 127 = 30480), so
// both nibbles are read with masks alone after one shift of the whole byte, and the places' sums of a k-block are brought to one power of two as
// they are widened; a shift at the end of the group takes it off exactly. Codes of eight bits are multiplied as code − 128: |w| takes the
// unsigned place and the activation carries the sign.
#include "avx2.h"
#include "for_bits.h"
#include "tile.h"

namespace kbit::avx2 {
namespace {

template <int Width, int Tokens>
class Adder {
 public:
  using Input = int8_t;
  static constexpr int64_t kEach = kBlockInputs;

  inline __attribute__((always_inline)) Adder() {
    for (int t = 0; t < Tokens; ++t) total_[t] = _mm256_setzero_si256();
  }

  inline __attribute__((always_inline)) void add(const uint8_t* p, const int8_t* const* x, int64_t at) {
    Places places;
    for (int i = 0; i < Tokens * kPlaces; ++i) places.of[i / kPlaces][i % kPlaces] = _mm256_setzero_si256();
    if constexpr (Width == 1) {  // bits 0 … 7 hold steps 0 1 4 5 2 3 6 7
      const __m256i low = load(p), high = _mm256_srli_epi16(low, 4);
      field<0>(places, low, x, at), field<1>(places, low, x, at + 4), field<2>(places, low, x, at + 16), field<3>(places, low, x, at + 20);
      field<0>(places, high, x, at + 8), field<1>(places, high, x, at + 12), field<2>(places, high, x, at + 24), field<3>(places, high, x, at + 28);
    } else if constexpr (Width == 2) {
      for (int v = 0; v < 2; ++v, at += 16) {
        const __m256i low = load(p + 64 * v), high = _mm256_srli_epi16(low, 4);
        field<0>(places, low, x, at), field<1>(places, low, x, at + 4);
        field<0>(places, high, x, at + 8), field<1>(places, high, x, at + 12);
      }
    } else {
      for (int v = 0; v < 4; ++v, at += 8) {
        const __m256i low = load(p + 64 * v);
        field<0>(places, low, x, at), field<0>(places, _mm256_srli_epi16(low, 4), x, at + 4);
      }
    }
    for (int t = 0; t < Tokens; ++t) {
      __m256i joined = places.of[t][0];
      for (int i = 1; i < kPlaces; ++i) joined = _mm256_add_epi16(_mm256_slli_epi16(joined, Width), places.of[t][i]);
      total_[t] = _mm256_add_epi32(total_[t], _mm256_madd_epi16(joined, _mm256_set1_epi16(1)));
    }
  }

  inline __attribute__((always_inline)) __m256i sum(int t) const { return _mm256_srai_epi32(total_[t], Width * (kPlaces - 1)); }

 private:
  static constexpr int kPlaces = 4 / Width;  // of a nibble
  struct Places {
    __m256i of[Tokens][kPlaces];  // sums of a k-block in 16 bits
  };

  // The codes at bit Place · Width of the bytes' lower nibbles, for the activations x[t] + at.
  template <int Place>
  static inline __attribute__((always_inline)) void field(Places& places, __m256i bytes, const int8_t* const* x, int64_t at) {
    const __m256i codes = _mm256_and_si256(bytes, _mm256_set1_epi8(((1 << Width) - 1) << (Place * Width)));
    for (int t = 0; t < Tokens; ++t) {
      places.of[t][Place] = _mm256_add_epi16(places.of[t][Place], _mm256_maddubs_epi16(codes, four_inputs(x[t] + at)));
    }
  }

  __m256i total_[Tokens];  // 2^(Width · (kPlaces − 1)) times the sum
};

template <int Tokens>
class Adder<8, Tokens> {
 public:
  using Input = int8_t;
  static constexpr int64_t kEach = kBlockInputs;

  inline __attribute__((always_inline)) Adder() {
    for (int t = 0; t < Tokens; ++t) total_[t] = _mm256_setzero_si256();
  }

  inline __attribute__((always_inline)) void add(const uint8_t* p, const int8_t* const* x, int64_t at) {
    for (int v = 0; v < 8; ++v) {
      const __m256i code = _mm256_xor_si256(load(p + 64 * v), _mm256_set1_epi8(-128)), magnitude = _mm256_abs_epi8(code);
      for (int t = 0; t < Tokens; ++t) {
        const __m256i products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four_inputs(x[t] + at + 4 * v), code));
        total_[t] = _mm256_add_epi32(total_[t], _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
      }
    }
  }

  inline __attribute__((always_inline)) __m256i sum(int t) const { return total_[t]; }

 private:
  __m256i total_[Tokens];
};

template <int K>
struct Of {
  template <int Tokens>
  using Dots = PlaneDots<K, Tokens, Adder>;
};

}  // namespace

void integer(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  CodeLine line;
  code_line(m, line);
  const int64_t starts[3] = {0, 0, 0};
  auto* terms = reinterpret_cast<Term*>(scratch);
  for (int64_t token = 0; token < tokens; token += kTermTokens) {
    const int64_t count = tokens - token < kTermTokens ? tokens - token : kTermTokens;
    for (int64_t t = 0; t < count; ++t) fill_terms(m, line.offset + (m.bits == 8 ? 128 * line.step : 0), x, token + t, terms + t * x.groups);
    const Inputs<int8_t> inputs{x.q + token * x.stride, x.stride, terms, x.groups};
    for_bits(m.bits, [&]<int K>() {
      multiply_tiles<2, Of<K>::template Dots>(m, line, starts, inputs, count, begin, end, y + token * y_stride, y_stride);
    });
  }
}

}  // namespace kbit::avx2
