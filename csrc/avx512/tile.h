// A tile and a few tokens, straight from the planes: activation groups, scales, and the float arithmetic after each group in the oracle's
// order. How the dots of a group are found is the business of `Dots`, so that lookup, integer and serial kernels are alike but for that:
//
//   Input               what it takes activations as
//   Dots(setup, m, tile)
//   add(x, count, sum)  adds the next `count` k-blocks for the activations x[t] of each token t to sum[t], a row a lane
//
// Groups are whole k-blocks.
#pragma once

#include <cstdint>

#include "decode.h"
#include "dot.h"
#include "factors.h"
#include "finish.h"
#include "intrinsics.h"
#include "kernels.h"
#include "scales.h"
#include "variants.h"

namespace kbit::avx512 {
namespace {  // kernels' own types are arguments here, and those of one name in two files are two types

// The tokens' activations: those of token t begin at first + t · stride.
template <class Input>
struct Inputs {
  const Input* first;
  int64_t stride;
};

template <int Tokens>
inline __attribute__((always_inline)) void finish_tokens(const Matrix& m, int64_t tile, int64_t group, const Factors* factors, int64_t i,
                                                         const Sums (&dots)[Tokens], __m512 (&total)[Tokens]) {
  prefetch_scales(m, tile, group);
  const __m512 scale = load_scales(m, tile, group);
  if (m.zero_point == nullptr) {
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) total[t] = finish<false>(total[t], dots[t], factors[t], i, scale, scale);
  } else {
    const __m512 base = base_less_zero(m, tile, group);
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) total[t] = finish<true>(total[t], dots[t], factors[t], i, scale, base);
  }
}

// Tokens [token, token + Tokens) of a tile.
template <int Tokens, class Dots, class Setup>
void multiply_tile(const Matrix& m, const CodeLine& line, const Setup& setup, const Activations& x, Inputs<typename Dots::Input> inputs, int64_t token,
                   int64_t tile, float* y, int64_t y_stride) {
  Dots dots(setup, m, tile);
  Groups groups(m);
  Factors factors[Tokens];
  __m512 total[Tokens];
  const typename Dots::Input* input[Tokens];
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) {
    total[t] = _mm512_setzero_ps();
    input[t] = inputs.first + (token + t) * inputs.stride;
  }
  const int64_t size = m.activation_group / kBlockInputs;
  for (int64_t a = 0, left = m.kblocks; a < x.groups; ++a, left -= size, groups.next()) {
    const int64_t i = a % kChunk;
    if (i == 0) {
      for (int t = 0; t < Tokens; ++t) {
        const int64_t at = (token + t) * x.groups + a;
        factors[t].fill(m.integer, line.offset, x.scale + at, x.sum + at, chunk_end(a, x.groups) - a);
      }
    }
    Sums sum[Tokens];
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) sum[t] = Sums{};
    dots.add(input, size < left ? size : left, sum);
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) sum[t] = (line.step == 1 ? sum[t] : sum[t] * line.step) + factors[t].start_of(i);
    finish_tokens<Tokens>(m, tile, groups.current(), factors, i, sum, total);
  }
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) store_rows(m, tile, y + (token + t) * y_stride, total[t]);
}

// Tokens [begin, end) of a tile, up to four at once: their sums stay in registers, and the planes in the first-level cache.
template <template <int> class Dots, class Setup, class Input>
void multiply_tokens(const Matrix& m, const CodeLine& line, const Setup& setup, const Activations& x, Inputs<Input> inputs, int64_t begin, int64_t end,
                     int64_t tile, float* y, int64_t y_stride) {
  for (int64_t t = begin; t < end;) {
    const int64_t left = end - t, count = left == 5 || left == 6 ? 3 : left < 4 ? left : 4;  // nobody is left alone
    switch (count) {
      case 1: multiply_tile<1, Dots<1>>(m, line, setup, x, inputs, t, tile, y, y_stride); break;
      case 2: multiply_tile<2, Dots<2>>(m, line, setup, x, inputs, t, tile, y, y_stride); break;
      case 3: multiply_tile<3, Dots<3>>(m, line, setup, x, inputs, t, tile, y, y_stride); break;
      default: multiply_tile<4, Dots<4>>(m, line, setup, x, inputs, t, tile, y, y_stride);
    }
    t += count;
  }
}

// Dots of codes plane by plane: a plane is a matrix of its own, whose codes are worth 2^shift. An adder finds its dots:
//   Input            what it takes activations as: kEach of them for a k-block
//   add(p, x, at)    adds a k-block of a plane of `Width` bits, which lies at p, for the activations x[t] + at of each token t
//   sum(t)           Σ code · q_x for token t, a row a lane
template <int K, int Tokens, template <int Width, int Tokens_> class Adder>
class PlaneDots {
 public:
  using Input = typename Adder<plane_width(K, 0), Tokens>::Input;

  // `starts`: where the activations of each plane begin.
  inline __attribute__((always_inline)) PlaneDots(const int64_t (&starts)[3], const Matrix& m, int64_t tile) {
    block_pointers(m, tile, 0, blocks_);
    for (int p = 0; p < plane_count(K); ++p) at_[p] = starts[p];
  }

  inline __attribute__((always_inline)) void add(const Input* const* x, int64_t count, Sums (&sum)[Tokens]) {
    add_plane<0>(x, count, sum);
    if constexpr (plane_count(K) > 1) add_plane<1>(x, count, sum);
    if constexpr (plane_count(K) > 2) add_plane<2>(x, count, sum);
  }

 private:
  template <int Plane>
  inline __attribute__((always_inline)) void add_plane(const Input* const* x, int64_t count, Sums (&sum)[Tokens]) {
    constexpr int width = plane_width(K, Plane);
    Adder<width, Tokens> adder;
    const uint8_t* p = blocks_[Plane];
    int64_t at = at_[Plane];
    for (; count > 0; --count, p += 64 * width, at += Adder<width, Tokens>::kEach) {
      ask_ahead<width>(p);
      adder.add(p, x, at);
    }
    blocks_[Plane] = p;
    at_[Plane] = at;
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) sum[t] += adder.sum(t) << plane_shift(K, Plane);
  }

  const uint8_t* blocks_[3];
  int64_t at_[3];
};

}  // namespace
}  // namespace kbit::avx512
