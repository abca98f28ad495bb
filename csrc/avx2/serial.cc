// Fast mode bit by bit (csrc/serial.h): AND with a word of the activations' bits, and popcounts of nibbles by pshufb.
//
// A word is kept as two, its bytes' low nibbles and their high ones. The tables hold counts times their power of two, so that the words up to
// 2^4 add up in one byte: 8 · 31 = 248. Those from 2^5 on are counted in units of 32, at widths 1, 2, 4: −32 … 24, −96 … 48, −120 … 112.
#include <utility>

#include "avx2.h"
#include "serial_x86.h"
#include "tile.h"

namespace kbit::avx2 {
namespace {

template <int Width, int Tokens>
class Adder {
 public:
  static_assert(Tokens == 1);
  using Input = uint32_t;
  static constexpr int64_t kEach = 2 * serial_block_words(Width);

  inline __attribute__((always_inline)) void add(const uint8_t* p, const uint32_t* const* x, int64_t at) {
    for (int v = 0; v < Width; ++v) vector(load(p + 64 * v), x[0] + at + 2 * serial_words(Width) * v);
  }

  inline __attribute__((always_inline)) __m256i sum(int) const { return total_; }

 private:
  // Counts of a word's bits in each byte, times `Factor`.
  template <int Factor>
  static inline __attribute__((always_inline)) __m256i count(__m256i low, __m256i high, const uint32_t* word) {
    constexpr auto f = [](int ones) { return static_cast<char>(Factor * ones); };
    const __m128i once = _mm_setr_epi8(f(0), f(1), f(1), f(2), f(1), f(2), f(2), f(3), f(1), f(2), f(2), f(3), f(2), f(3), f(3), f(4));
    const __m256i table = _mm256_broadcastsi128_si256(once);
    const __m256i a = _mm256_shuffle_epi8(table, _mm256_and_si256(low, four_inputs(word)));
    const __m256i b = _mm256_shuffle_epi8(table, _mm256_and_si256(high, four_inputs(word + 1)));
    return _mm256_add_epi8(a, b);
  }

  inline __attribute__((always_inline)) void vector(__m256i v, const uint32_t* words) {
    const __m256i low = low_nibbles(v), high = high_nibbles(v);
    __m256i ones = _mm256_setzero_si256(), units = ones;
    [&]<int... Word>(std::integer_sequence<int, Word...>) __attribute__((always_inline)) {
      const auto add_word = [&]<int W>() __attribute__((always_inline)) {
        constexpr int weight = serial_weight(Width, W);
        if constexpr (W < 5) ones = _mm256_add_epi8(ones, count<weight>(low, high, words + 2 * W));
        else if constexpr (weight > 0) units = _mm256_add_epi8(units, count<weight / 32>(low, high, words + 2 * W));
        else units = _mm256_sub_epi8(units, count<-weight / 32>(low, high, words + 2 * W));
      };
      (add_word.template operator()<Word>(), ...);
    }(std::make_integer_sequence<int, serial_words(Width)>());
    const __m256i one = _mm256_set1_epi8(1);
    const __m256i ones16 = _mm256_maddubs_epi16(ones, one), units16 = _mm256_maddubs_epi16(one, units);
    total_ = _mm256_add_epi32(total_, _mm256_madd_epi16(ones16, _mm256_set1_epi16(1)));
    total_ = _mm256_add_epi32(total_, _mm256_madd_epi16(units16, _mm256_set1_epi16(32)));
  }

  __m256i total_ = _mm256_setzero_si256();
};

template <int K>
struct Of {
  template <int Tokens>
  using Dots = PlaneDots<K, Tokens, Adder>;
};

// As many tokens at once as the scratch holds the terms and the words of.
template <int K>
void run(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  CodeLine line;
  code_line(m, line);
  auto* terms = reinterpret_cast<Term*>(scratch);
  auto* words = reinterpret_cast<uint32_t*>(scratch + term_bytes(m));
  const int64_t starts[3] = {0, 2 * serial_offset(m, 1), 0};
  const int64_t each = 2 * serial_offset(m, plane_count(K)), fitting = (scratch_bytes(m) - term_bytes(m)) / (4 * each);
  const int64_t room = fitting < kTermTokens ? fitting : kTermTokens;
  for (int64_t token = 0; token < tokens; token += room) {
    const int64_t count = tokens - token < room ? tokens - token : room;
    uint32_t* out = words;
    for (int64_t t = 0; t < count; ++t) {
      fill_terms(m, line.offset, x, token + t, terms + t * x.groups);
      cut_words_x86<K>(m, x.q + (token + t) * x.stride, [&](uint32_t word) {
        *out++ = word & 0x0f0f0f0fu;
        *out++ = word >> 4 & 0x0f0f0f0fu;
      });
    }
    const Inputs<uint32_t> inputs{words, each, terms, x.groups};
    multiply_tiles<1, Of<K>::template Dots>(m, line, starts, inputs, count, begin, end, y + token * y_stride, y_stride);
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

}  // namespace kbit::avx2
