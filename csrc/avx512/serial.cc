// Fast mode bit by bit (csrc/serial.h): vpandd with a word of the activations' bits, vpopcntb, and vpdpbusd to add the counts with their powers
// of two. Counting bytes, not the quadwords of vpopcntq, is what lets the same instruction weigh and add them.
#include <utility>

#include "avx512.h"
#include "intrinsics.h"
#include "serial_x86.h"
#include "tile.h"

namespace kbit::avx512 {
namespace {

template <int Width, int Tokens>
class Adder {
 public:
  using Input = uint32_t;
  static constexpr int64_t kEach = serial_block_words(Width);

  inline __attribute__((always_inline)) Adder() {
#pragma GCC unroll 4
    for (int i = 0; i < Tokens * kChains; ++i) low_[i / kChains][i % kChains] = Sums{};
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) high_[t] = Sums{};
  }

  inline __attribute__((always_inline)) void add(const uint8_t* p, const uint32_t* const* words, int64_t at) {
#pragma GCC unroll 4
    for (int vector = 0; vector < Width; ++vector) {
      const __m512i plane = load(p + 64 * vector);
      [&]<int... Word>(std::integer_sequence<int, Word...>) __attribute__((always_inline)) {
        (bits<Word>(plane, words, at + vector * serial_words(Width)), ...);
      }(std::make_integer_sequence<int, serial_words(Width)>());
    }
  }

  inline __attribute__((always_inline)) Sums sum(int t) const {
    Sums total = high_[t] << 7;
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) total += low_[t][c];
    return total;
  }

 private:
  static constexpr int kChains = Tokens < 4 ? 4 / Tokens : 1;  // enough to hide the latency of vpdpbusd

  // Weights are signed bytes: those beyond are counted in units of 128.
  template <int Word>
  inline __attribute__((always_inline)) void bits(__m512i plane, const uint32_t* const* words, int64_t at) {
    constexpr int weight = serial_weight(Width, Word);
    constexpr bool large = weight < -128 || weight > 127;
    const __m512i factor = _mm512_set1_epi8(static_cast<char>(large ? weight / 128 : weight));
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      const __m512i counts = _mm512_popcnt_epi8(_mm512_and_si512(plane, four_inputs(words[t] + at + Word)));
      Sums& sum = large ? high_[t] : low_[t][Word % kChains];
      sum = multiply_add(sum, counts, factor);
    }
  }

  Sums low_[Tokens][kChains], high_[Tokens];
};

template <int K>
struct Of {
  template <int Tokens>
  using Dots = PlaneDots<K, Tokens, Adder>;
};

// As many tokens at once as the scratch holds the words of.
template <int K>
void run(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  CodeLine line;
  code_line(m, line);
  auto* words = reinterpret_cast<uint32_t*>(scratch);
  const int64_t starts[3] = {0, serial_offset(m, 1), 0}, each = serial_offset(m, plane_count(K)), room = scratch_bytes(m) / (4 * each);
  for (int64_t token = 0; token < tokens; token += room) {
    const int64_t stop = token + room < tokens ? token + room : tokens;
    uint32_t* out = words;
    for (int64_t t = token; t < stop; ++t) cut_words_x86<K>(m, x.q + t * x.stride, [&](uint32_t word) { *out++ = word; });
    const Inputs<uint32_t> inputs{words - token * each, each};
    for (int64_t tile = begin; tile < end; ++tile) multiply_tokens<Of<K>::template Dots>(m, line, starts, x, inputs, token, stop, tile, y, y_stride);
  }
}

}  // namespace

void serial(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  static const bool counts = __builtin_cpu_supports("avx512bitalg") != 0;  // every processor that this folder is for; a hypervisor may hide it
  if (!counts) return fast(m, x, tokens, y, y_stride, begin, end, scratch);
  switch (m.bits) {
    case 1: return run<1>(m, x, tokens, y, y_stride, begin, end, scratch);
    case 2: return run<2>(m, x, tokens, y, y_stride, begin, end, scratch);
    case 3: return run<3>(m, x, tokens, y, y_stride, begin, end, scratch);
    default: return run<4>(m, x, tokens, y, y_stride, begin, end, scratch);
  }
}

}  // namespace kbit::avx512
