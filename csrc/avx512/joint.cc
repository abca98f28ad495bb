// Fast mode of a joint codebook: up to four tokens straight from the planes, more by decoded tiles.
#include "joint.h"

#include "avx512.h"
#include "chains.h"
#include "for_joint.h"
#include "tile.h"

namespace kbit::avx512 {
namespace {

template <int K, int D, int Tokens>
class JointDots {
 public:
  using Input = int8_t;

  // The tables in registers: a copy that no store can change.
  inline __attribute__((always_inline)) JointDots(const JointTables<K, D>& tables, const Matrix& m, int64_t tile) : tables_(tables), cursor_(m, tile) {}

  inline __attribute__((always_inline)) void add(const int8_t* const* x, int64_t count, Sums (&sum)[Tokens]) {
    Chains<Tokens, kChains> chains;
    for (; count > 0; --count, cursor_.next(), at_ += D * kBlockInputs) {
      cursor_.prefetch();
      Emit emit{chains, x, at_};
      decode<K, Output::looked_up>(cursor_.blocks, tables_, emit);
    }
    chains.add_to(sum);
  }

 private:
  static constexpr int kChains = Tokens == 1 ? 2 * D : Tokens == 2 ? 2 : 1;

  struct Emit {
    Chains<Tokens, kChains>& chains;
    const int8_t* const* x;
    int64_t from;
    template <int S>
    inline __attribute__((always_inline)) void at(const Components<D>& w) {
#pragma GCC unroll 4
      for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 3
        for (int c = 0; c < D; ++c) {
          Sums& sum = chains.of[t][(D * S + c) % kChains];
          sum = multiply_add(sum, w.of[c], four_inputs(x[t] + from + kBlockInputs * c + 4 * S));
        }
      }
    }
  };

  const JointTables<K, D> tables_;
  Cursor<K> cursor_;
  int64_t at_ = 0;
};

template <int K, int D>
struct Of {
  template <int Tokens>
  using Dots = JointDots<K, D, Tokens>;
};

template <int K, int D>
void from_planes(const Matrix& m, const JointTables<K, D>& tables, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin,
                 int64_t end) {
  const CodeLine line{0, 1};
  const Inputs<int8_t> inputs{x.q, x.stride};
  for (int64_t tile = begin; tile < end; ++tile) {
    multiply_tokens<Of<K, D>::template Dots>(m, line, tables, x, inputs, 0, tokens, tile, y, y_stride);
  }
}

template <int K, int D>
void from_strips(const Matrix& m, const JointTables<K, D>& tables, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin,
                 int64_t end, uint8_t* strip) {
  const Matrix decoded = flat(m);
  const int64_t step = tiles_per_strip(m);
  for (int64_t tile = begin; tile < end; tile += step) {
    const int64_t stop = tile + step < end ? tile + step : end;
    for (int64_t t = tile; t < stop; ++t) {
      const uint8_t* blocks[3];
      block_pointers(m, t, 0, blocks);
      decode_joint_blocks<K, D>(tables, blocks, m.kblocks, strip + (t - tile) * decoded_bytes(m));
    }
    multiply_decoded(decoded, x, tokens, strip, tile, stop, y, y_stride);
  }
}

}  // namespace

void joint(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  for_joint(m.bits, m.dims, [&]<int K, int D>() {
    const JointTables<K, D> tables(m.integer.q);
    if (tokens <= kFewTokens) from_planes<K, D>(m, tables, x, tokens, y, y_stride, begin, end);
    else from_strips<K, D>(m, tables, x, tokens, y, y_stride, begin, end, scratch);
  });
}

}  // namespace kbit::avx512
