// Fast mode without lookups, for codebooks on a line: codes are multiplied where they lie in the byte.
//
// A field at bit p of a masked byte is 2^p · code, at most 255, which vpdpbusd takes as an unsigned byte. Each place has a sum of its own, and
// since every product in it is a multiple of 2^p, a shift at the end of the group takes the factor off exactly. A code costs one mask, which
// runs on two ports where vpermb has one. In planes of width 1 four places are read in both nibbles: eight would need as many sums. Codes of
// more than one plane cost a mask and a multiplication for each, where a lookup has one of each for all.
#include "avx512.h"
#include "for_bits.h"
#include "tile.h"

namespace kbit::avx512 {
namespace {

template <int Width, int Tokens>
class Adder {
 public:
  using Input = int8_t;
  static constexpr int64_t kEach = kBlockInputs;

  inline __attribute__((always_inline)) Adder() {
#pragma GCC unroll 16
    for (int i = 0; i < Tokens * kPlaces * kChains; ++i) place_[i / (kPlaces * kChains)][i / kChains % kPlaces][i % kChains] = Sums{};
  }

  inline __attribute__((always_inline)) void add(const uint8_t* p, const int8_t* const* x, int64_t at) {
    if constexpr (Width == 1) {  // bits 0 … 7 hold steps 0 1 4 5 2 3 6 7
      const __m512i low = load(p), high = _mm512_srli_epi16(low, 4);
      field<0, 0>(low, x, at), field<1, 0>(low, x, at + 4), field<2, 0>(low, x, at + 16), field<3, 0>(low, x, at + 20);
      field<0, 1>(high, x, at + 8), field<1, 1>(high, x, at + 12), field<2, 1>(high, x, at + 24), field<3, 1>(high, x, at + 28);
    } else {
      vector<0>(p, x, at);
      if constexpr (Width > 1) vector<1>(p, x, at);
      if constexpr (Width > 2) vector<2>(p, x, at), vector<3>(p, x, at);
      if constexpr (Width > 4) vector<4>(p, x, at), vector<5>(p, x, at), vector<6>(p, x, at), vector<7>(p, x, at);
    }
  }

  inline __attribute__((always_inline)) Sums sum(int t) const {
    Sums total = at_place(t, kPlaces - 1);
#pragma GCC unroll 4
    for (int i = kPlaces - 2; i >= 0; --i) total = (total >> Width) + at_place(t, i);
    return total;
  }

 private:
  static constexpr int kPlaces = Width == 8 ? 1 : Width == 4 ? 2 : 4;
  static constexpr int kChains = Tokens * kPlaces < 4 ? 4 / (Tokens * kPlaces) : 1;  // enough to hide the latency of vpdpbusd

  // Adds the codes at bit Place · Width of the bytes, for the activations x[t] + at.
  template <int Place, int Chain>
  inline __attribute__((always_inline)) void field(__m512i bytes, const int8_t* const* x, int64_t at) {
    if constexpr (Width < 8) bytes = _mm512_and_si512(bytes, _mm512_set1_epi8(static_cast<char>(((1 << Width) - 1) << (Place * Width))));
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      Sums& sum = place_[t][Place][Chain % kChains];
      sum = multiply_add(sum, bytes, four_inputs(x[t] + at));
    }
  }

  // The vector's fields are steps one after another.
  template <int Vector>
  inline __attribute__((always_inline)) void vector(const uint8_t* p, const int8_t* const* x, int64_t at) {
    const __m512i v = load(p + 64 * Vector);
    at += 32 / Width * Vector;
    field<0, Vector>(v, x, at);
    if constexpr (kPlaces > 1) field<1, Vector>(v, x, at + 4);
    if constexpr (kPlaces > 2) field<2, Vector>(v, x, at + 8), field<3, Vector>(v, x, at + 12);
  }

  inline __attribute__((always_inline)) Sums at_place(int t, int i) const {
    Sums sum = place_[t][i][0];
#pragma GCC unroll 4
    for (int c = 1; c < kChains; ++c) sum += place_[t][i][c];
    return sum;
  }

  Sums place_[Tokens][kPlaces][kChains];
};

template <int K>
struct Of {
  template <int Tokens>
  using Dots = PlaneDots<K, Tokens, Adder>;
};

}  // namespace

void integer(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t*) {
  CodeLine line;
  code_line(m, line);
  const Inputs<int8_t> inputs{x.q, x.stride};
  const int64_t starts[3] = {0, 0, 0};
  for_bits(m.bits, [&]<int K>() {
    for (int64_t tile = begin; tile < end; ++tile) multiply_tokens<Of<K>::template Dots>(m, line, starts, x, inputs, 0, tokens, tile, y, y_stride);
  });
}

}  // namespace kbit::avx512
