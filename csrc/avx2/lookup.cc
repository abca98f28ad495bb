// Fast mode by lookup for a few tokens, straight from the planes: each looked-up register is multiplied with two tokens at once, where the
// kernel for many tokens writes a strip of decoded tiles and reads it again.
#include "avx2.h"
#include "dot.h"
#include "for_bits.h"
#include "tile.h"

namespace kbit::avx2 {
namespace {

template <int K, int Depth, int Tokens>
class LookUp {
 public:
  using Input = int8_t;

  inline __attribute__((always_inline)) LookUp(const Tables& tables, const Matrix& m, int64_t tile) : tables_(tables) { block_pointers(m, tile, 0, planes_); }

  inline __attribute__((always_inline)) void add(const int8_t* const* x, int64_t block, int64_t count, int half, __m256i (&sum)[Tokens]) const {
    const uint8_t* at[3];
    for (int p = 0; p < plane_count(K); ++p) at[p] = planes_[p] + 64 * plane_width(K, p) * block + 32 * half;
    Emit emit{x, block * kBlockInputs, sum, {}};
    for (; count > 0; --count, emit.from += kBlockInputs) {
      if (half == 0) {
        ask_ahead<plane_width(K, 0)>(at[0]);
        if constexpr (plane_count(K) > 1) ask_ahead<plane_width(K, 1)>(at[1]);
        if constexpr (plane_count(K) > 2) ask_ahead<plane_width(K, 2)>(at[2]);
      }
      decode_half<K, Output::levels>(at, tables_, emit);
      for (int p = 0; p < plane_count(K); ++p) at[p] += 64 * plane_width(K, p);
    }
  }

 private:
  struct Emit {
    static constexpr int kChain = Depth < 2 ? 1 : Depth;
    const int8_t* const* x;
    int64_t from;
    __m256i (&sum)[Tokens];
    __m256i part[Tokens];

    template <int N>
    inline __attribute__((always_inline)) void at(int step, __m256i w) {
      for (int t = 0; t < Tokens; ++t) {
        const __m256i p = products<Depth>(w, four_inputs(x[t] + from + 4 * step));
        part[t] = N % kChain == 0 ? p : _mm256_add_epi16(part[t], p);
        if constexpr (N % kChain == kChain - 1) sum[t] = _mm256_add_epi32(sum[t], widen(part[t]));
      }
    }
  };

  const Tables& tables_;
  const uint8_t* planes_[3];
};

template <int K, int Depth>
struct Of {
  template <int Tokens>
  using Dots = LookUp<K, Depth, Tokens>;
};

}  // namespace

void lookup(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  if (tokens == 1 || m.activation_group % kBlockInputs != 0) {
    Matrix unmarked = m;  // whose codes would be taken as they are
    unmarked.integer.identity = false;
    return fast(unmarked, x, tokens, y, y_stride, begin, end, scratch);
  }
  uint8_t value[256];
  table_values(m.integer, value);
  Tables tables;
  fill_tables(tables, m.bits, value);
  auto* terms = reinterpret_cast<Term*>(scratch);
  const CodeLine line{0, 1};
  for (int64_t token = 0; token < tokens; token += kTermTokens) {
    const int64_t count = tokens - token < kTermTokens ? tokens - token : kTermTokens;
    for (int64_t t = 0; t < count; ++t) fill_terms(m, m.integer.depth == 0 ? 128 : 0, x, token + t, terms + t * x.groups);
    const Inputs<int8_t> inputs{x.q + token * x.stride, x.stride, terms, x.groups};
    for_bits(m.bits, [&]<int K>() {
      for_depth(m.integer.depth, [&]<int Depth>() {
        multiply_tiles<2, Of<K, Depth>::template Dots>(m, line, tables, inputs, count, begin, end, y + token * y_stride, y_stride);
      });
    });
  }
}

}  // namespace kbit::avx2
