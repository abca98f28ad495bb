// Tiles and one or two tokens, straight from the planes, for codebooks on a line: activation groups, scales, and the float arithmetic after each
// group in the oracle's order. A plane is a matrix of its own, whose codes are worth 2^shift. How its dots are found is the business of an
// adder, made anew for each group, plane and half of the tile (8 rows), so that integer and serial kernels are alike but for that:
//
//   Input                 what it takes activations as: kEach of them for a k-block
//   add(p, x, at)         adds the half-tile's k-block of a plane of `Width` bits, which lies at p, for the activations x[t] + at of each token t
//   sum(t)                Σ code · q_x for token t, a row a lane
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

// A few tokens' activations and terms: those of token t begin t · stride, and t · groups, after the first; a plane's `starts` after its token's.
template <class Input>
struct Inputs {
  const Input* first;
  int64_t stride;
  int64_t starts[3];
  const Term* terms;
  int64_t groups;
};

// Dots of one group, k-blocks [block, block + count), with half of a tile.
template <int K, int Tokens, int Plane, template <int, int> class Adder, class Input>
inline __attribute__((always_inline)) void add_plane(const uint8_t* const* planes, const Input* const* x, const int64_t (&starts)[3], int64_t block,
                                                     int64_t count, int half, __m256i (&sum)[Tokens]) {
  constexpr int width = plane_width(K, Plane);
  using Of = Adder<width, Tokens>;
  Of adder;
  const uint8_t* p = planes[Plane] + 64 * width * block + 32 * half;
  int64_t at = starts[Plane] + Of::kEach * block;
  for (; count > 0; --count, p += 64 * width, at += Of::kEach) {
    if (half == 0) {
      for (int v = 0; v < width; ++v) _mm_prefetch(reinterpret_cast<const char*>(p + 64 * v + kAhead), _MM_HINT_T0);
    }
    adder.add(p, x, at);
  }
  for (int t = 0; t < Tokens; ++t) sum[t] = _mm256_add_epi32(sum[t], _mm256_slli_epi32(adder.sum(t), plane_shift(K, Plane)));
}

// Tokens [token, token + Tokens) of a tile; y is the first token's.
template <int K, int Tokens, template <int, int> class Adder, class Input>
void multiply_tile(const Matrix& m, const CodeLine& line, const Inputs<Input>& inputs, int64_t token, int64_t tile, float* y, int64_t y_stride) {
  const uint8_t* planes[3];
  block_pointers(m, tile, 0, planes);
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
      add_plane<K, Tokens, 0, Adder>(planes, x, inputs.starts, block, count, half, sum);
      if constexpr (plane_count(K) > 1) add_plane<K, Tokens, 1, Adder>(planes, x, inputs.starts, block, count, half, sum);
      if constexpr (plane_count(K) > 2) add_plane<K, Tokens, 2, Adder>(planes, x, inputs.starts, block, count, half, sum);
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
template <int K, int Most, template <int, int> class Adder, class Input>
void multiply_tiles(const Matrix& m, const CodeLine& line, const Inputs<Input>& inputs, int64_t tokens, int64_t begin, int64_t end, float* y,
                    int64_t y_stride) {
  for (int64_t tile = begin; tile < end; ++tile) {
    int64_t t = 0;
    if constexpr (Most == 2) {
      for (; t + 2 <= tokens; t += 2) multiply_tile<K, 2, Adder>(m, line, inputs, t, tile, y, y_stride);
    }
    for (; t < tokens; ++t) multiply_tile<K, 1, Adder>(m, line, inputs, t, tile, y, y_stride);
  }
}

}  // namespace
}  // namespace kbit::avx2
