// Fast mode by lookup for a few tokens, straight from the planes: each looked-up register is multiplied with every token at once, where the
// kernel for many tokens writes a strip of decoded tiles and reads it again.
#include "avx512.h"
#include "chains.h"
#include "for_bits.h"
#include "tile.h"

namespace kbit::avx512 {
namespace {

template <int K, Output Out, int Tokens>
class Dots {
 public:
  using Input = int8_t;

  // The tables in registers: a copy that no store can change.
  inline __attribute__((always_inline)) Dots(const Tables<K>& tables, const Matrix& m, int64_t tile) : tables_(tables), cursor_(m, tile) {}

  inline __attribute__((always_inline)) void add(const int8_t* const* x, int64_t count, Sums (&sum)[Tokens]) {
    Chains<Tokens, kChains> chains;
    for (; count > 0; --count, cursor_.next(), at_ += kBlockInputs) {
      cursor_.prefetch();
      Emit emit{chains, x, at_};
      decode<K, Out>(cursor_.blocks, tables_, emit);
    }
    chains.add_to(sum);
  }

 private:
  static constexpr int kChains = Tokens < 4 ? 4 / Tokens : 1;

  struct Emit {
    Chains<Tokens, kChains>& chains;
    const int8_t* const* x;
    int64_t from;
    template <int S>
    inline __attribute__((always_inline)) void at(__m512i w) {
#pragma GCC unroll 4
      for (int t = 0; t < Tokens; ++t) {
        Sums& sum = chains.of[t][S % kChains];
        sum = multiply_add(sum, w, four_inputs(x[t] + from + 4 * S));
      }
    }
  };

  const Tables<K> tables_;
  Cursor<K> cursor_;
  int64_t at_ = 0;
};

template <int K, Output Out>
struct Of {
  template <int Tokens>
  using Dots = avx512::Dots<K, Out, Tokens>;
};

template <int K, Output Out>
void run(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end) {
  const Tables<K> tables(m.integer.q);
  const CodeLine line{0, 1};
  const Inputs<int8_t> inputs{x.q, x.stride};
  for (int64_t tile = begin; tile < end; ++tile) {
    multiply_tokens<Of<K, Out>::template Dots>(m, line, tables, x, inputs, 0, tokens, tile, y, y_stride);
  }
}

}  // namespace

void lookup(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  if (tokens == 1 || m.activation_group % kBlockInputs != 0) return fast(m, x, tokens, y, y_stride, begin, end, scratch);
  for_bits(m.bits, [&]<int K>() {
    if constexpr (K == 8) {  // one byte is one code: nothing to look up
      if (m.integer.identity) return run<K, Output::codes>(m, x, tokens, y, y_stride, begin, end);
    }
    run<K, Output::looked_up>(m, x, tokens, y, y_stride, begin, end);
  });
}

}  // namespace kbit::avx512
