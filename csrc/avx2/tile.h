// Tiles and one or two tokens, straight from the planes: activation groups, scales, and the float arithmetic after each group in the oracle's
// order. How the dots of a group are found is the business of `Dots`, so that lookup, integer and serial kernels are alike but for that:
//
//   Input                            what it takes activations as
//   Dots(setup, m, tile)
//   add(x, block, count, half, sum)  adds `count` k-blocks of half a tile (8 rows) for the activations x[t] of each token t to sum[t], a row a lane
//
// Groups are whole k-blocks.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "decode.h"
#include "finish.h"
#include "kernels.h"
#include "scales.h"
#include "variants.h"

namespace kbit::avx2 {
namespace {  // kernels' own types are arguments here, and those of one name in two files are two types

// A few tokens' activations and terms: those of token t begin t · stride, and t · groups, after the first.
template <class Input>
struct Inputs {
  const Input* first;
  int64_t stride;
  const Term* terms;
  int64_t groups;
};

// Tokens [token, token + Tokens) of a tile; y is the first token's.
template <int Tokens, class Dots, class Setup, class Input>
void multiply_tile(const Matrix& m, const CodeLine& line, const Setup& setup, const Inputs<Input>& inputs, int64_t token, int64_t tile, float* y,
                   int64_t y_stride) {
  const Dots dots(setup, m, tile);
  const Input* x[Tokens];
  const Term* terms[Tokens];
  __m256 total[Tokens][2];
  for (int t = 0; t < Tokens; ++t) {
    x[t] = inputs.first + (token + t) * inputs.stride;
    terms[t] = inputs.terms + (token + t) * inputs.groups;
    total[t][0] = total[t][1] = _mm256_setzero_ps();
  }
  ScaleGroup group(m);
  const int64_t size = m.activation_group / kBlockInputs;
  for (int64_t a = 0, block = 0; a < inputs.groups; ++a, block += size, group.next()) {
    const int64_t count = block + size < m.kblocks ? size : m.kblocks - block;
    for (int half = 0; half < 2; ++half) {
      __m256i sum[Tokens];
      for (int t = 0; t < Tokens; ++t) sum[t] = _mm256_setzero_si256();
      dots.add(x, block, count, half, sum);
      for (int t = 0; t < Tokens; ++t) {
        if (line.step != 1) sum[t] = _mm256_mullo_epi32(sum[t], _mm256_set1_epi32(line.step));
        sum[t] = _mm256_add_epi32(sum[t], _mm256_set1_epi32(terms[t][a].start));
        total[t][half] = add_group(m, total[t][half], sum[t], terms[t][a], tile, *group, half);
      }
    }
  }
  for (int t = 0; t < Tokens; ++t) store_rows(m, tile, y + (token + t) * y_stride, total[t][0], total[t][1]);
}

// All tiles [begin, end) for some tokens, up to `Most` at once.
template <int Most, template <int> class Dots, class Setup, class Input>
void multiply_tiles(const Matrix& m, const CodeLine& line, const Setup& setup, const Inputs<Input>& inputs, int64_t tokens, int64_t begin, int64_t end,
                    float* y, int64_t y_stride) {
  for (int64_t tile = begin; tile < end; ++tile) {
    int64_t t = 0;
    if constexpr (Most == 2) {
      for (; t + 2 <= tokens; t += 2) multiply_tile<2, Dots<2>>(m, line, setup, inputs, t, tile, y, y_stride);
    }
    for (; t < tokens; ++t) multiply_tile<1, Dots<1>>(m, line, setup, inputs, t, tile, y, y_stride);
  }
}

// Dots of codes plane by plane: a plane is a matrix of its own, whose codes are worth 2^shift. An adder, made anew for each group, finds them:
//   Input           what it takes activations as: kEach of them for a k-block
//   add(p, x, at)   adds the half-tile's k-block of a plane of `Width` bits, which lies at p, for the activations x[t] + at of each token t
//   sum(t)          Σ code · q_x for token t, a row a lane
template <int K, int Tokens, template <int Width, int Tokens_> class Adder>
class PlaneDots {
 public:
  using Input = typename Adder<plane_width(K, 0), Tokens>::Input;

  // `starts`: where the activations of each plane begin.
  inline __attribute__((always_inline)) PlaneDots(const int64_t (&starts)[3], const Matrix& m, int64_t tile) : starts_(starts) {
    block_pointers(m, tile, 0, planes_);
  }

  inline __attribute__((always_inline)) void add(const Input* const* x, int64_t block, int64_t count, int half, __m256i (&sum)[Tokens]) const {
    add_plane<0>(x, block, count, half, sum);
    if constexpr (plane_count(K) > 1) add_plane<1>(x, block, count, half, sum);
    if constexpr (plane_count(K) > 2) add_plane<2>(x, block, count, half, sum);
  }

 private:
  template <int Plane>
  inline __attribute__((always_inline)) void add_plane(const Input* const* x, int64_t block, int64_t count, int half, __m256i (&sum)[Tokens]) const {
    constexpr int width = plane_width(K, Plane);
    using Of = Adder<width, Tokens>;
    Of adder;
    const uint8_t* p = planes_[Plane] + 64 * width * block + 32 * half;
    int64_t at = starts_[Plane] + Of::kEach * block;
    for (; count > 0; --count, p += 64 * width, at += Of::kEach) {
      if (half == 0) ask_ahead<width>(p);
      adder.add(p, x, at);
    }
    for (int t = 0; t < Tokens; ++t) sum[t] = _mm256_add_epi32(sum[t], _mm256_slli_epi32(adder.sum(t), plane_shift(K, Plane)));
  }

  const int64_t (&starts_)[3];
  const uint8_t* planes_[3];
};

}  // namespace
}  // namespace kbit::avx2
