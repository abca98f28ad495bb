// Fast mode: integer levels by vpermb, int8 activations, exact integer dots by vpdpbusd.
//
// vpdpbusd adds four products of an unsigned and a signed byte to a 32-bit sum, so every codebook is used as it is, q in 0 … 255:
// the depth classes of AVX2 have no part here. The centre is taken off through the activations' sums.
#include "avx512.h"
#include "decode.h"
#include "dot.h"
#include "factors.h"
#include "finish.h"
#include "for_bits.h"
#include "scales.h"

namespace kbit::avx512 {
namespace {

// ---------------------------------------------------------------- one token

// Takes the registers of a k-block as they are decoded. Four chains hide the latency; the halves of the k-block, sixteen inputs
// each, have two chains of their own, since groups may end between them.
struct Dot {
  const int8_t* x;
  Sums chain[4];

  // The first half starts at `start`.
  inline __attribute__((always_inline)) Dot(const int8_t* activations, Sums start) : x(activations) {
    chain[0] = start;
    chain[1] = chain[2] = chain[3] = Sums{};
  }

  template <int S>
  inline __attribute__((always_inline)) void at(__m512i w) {
    constexpr int c = S / 4 * 2 + S % 2;
    chain[c] = multiply_add(chain[c], w, four_inputs(x + 4 * S));
  }

  inline __attribute__((always_inline)) Sums half(int index) const { return chain[2 * index] + chain[2 * index + 1]; }
};

inline __attribute__((always_inline)) __m512 finish_group(const Matrix& m, __m512 total, Sums dot, const Factors& f, int64_t i, int64_t tile,
                                                          int64_t group) {
  prefetch_scales(m, tile, group);
  const __m512 scale = load_scales(m, tile, group);
  if (m.zero_point == nullptr) return finish<false>(total, dot, f, i, scale, scale);
  return finish<true>(total, dot, f, i, scale, base_less_zero(m, tile, group));
}

template <int K, Output Out>
void vector_tile(const Matrix& m, const TablesOf<K>& tables, const Activations& x, int64_t tile, float* y) {
  Cursor<K> cursor(m, tile);
  Groups groups(m);
  __m512 total = _mm512_setzero_ps();
  const int8_t* q = x.q;
  const int64_t blocks = m.activation_group / kBlockInputs;
  int64_t left = m.kblocks;
  for (int64_t chunk = 0; chunk < x.groups; chunk += kChunk) {
    const int64_t end = chunk_end(chunk, x.groups);
    Factors factors;
    factors.fill(m.integer, 0, x.scale + chunk, x.sum + chunk, end - chunk);
    for (int64_t a = chunk; a < end; ++a, groups.next()) {
      Dot dot(q, factors.start_of(a - chunk));
      const int64_t count = blocks < left ? blocks : left;
      for (int64_t block = 0; block < count; ++block) {
        cursor.prefetch();
        decode<K, Out>(cursor.blocks, tables, dot);
        cursor.next();
        dot.x += kBlockInputs;
      }
      left -= count;
      q = dot.x;
      const Sums sum = dot.half(0) + dot.half(1);
      total = finish_group(m, total, sum, factors, a - chunk, tile, groups.current());
    }
  }
  store_rows(m, tile, y, total);
}

// The same where groups end in the middle of a k-block (sizes 16, 48, 80, 112): half-blocks are summed apart.
template <int K, Output Out>
void vector_tile_halves(const Matrix& m, const TablesOf<K>& tables, const Activations& x, int64_t tile, float* y) {
  Cursor<K> cursor(m, tile);
  Groups groups(m);
  __m512 total = _mm512_setzero_ps();
  Sums sum{};
  Factors factors;
  int64_t a = -1, left = 0;  // left: half-blocks until group a ends; the last group takes the padding too
  for (int64_t block = 0; block < m.kblocks; ++block, cursor.next()) {
    Dot dot(x.q + block * kBlockInputs, Sums{});
    decode<K, Out>(cursor.blocks, tables, dot);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      if (left == 0) {
        ++a;
        if (a % kChunk == 0) factors.fill(m.integer, 0, x.scale + a, x.sum + a, chunk_end(a, x.groups) - a);
        sum = factors.start_of(a % kChunk);
        left = a + 1 == x.groups ? 2 * (m.kblocks - block) - half : m.activation_group / 16;
      }
      sum += dot.half(half);
      if (--left != 0) continue;
      total = finish_group(m, total, sum, factors, a % kChunk, tile, groups.current());
      groups.next();
    }
  }
  store_rows(m, tile, y, total);
}

template <int K, Output Out>
void vector_tiles(const Matrix& m, const uint8_t* value, const Activations& x, float* y, int64_t begin, int64_t end) {
  const TablesOf<K> tables(value);
  if (m.activation_group % kBlockInputs == 0) {
    for (int64_t tile = begin; tile < end; ++tile) vector_tile<K, Out>(m, tables, x, tile, y);
  } else {
    for (int64_t tile = begin; tile < end; ++tile) vector_tile_halves<K, Out>(m, tables, x, tile, y);
  }
}

// ---------------------------------------------------------------- many tokens

// Products of Tokens tokens with Count decoded tiles: one register of weights for each tile and step, one broadcast of four
// activations for each token and step, an accumulator for each of their pairs.
template <int Tokens, int Count>
struct Block {
  const int8_t* q[Tokens];
  Sums sum[Tokens][Count];

  inline __attribute__((always_inline)) void multiply(const uint8_t* strip, int64_t tile_bytes, int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      __m512i w[Count];
#pragma GCC unroll 2
      for (int c = 0; c < Count; ++c) w[c] = load(strip + c * tile_bytes + 64 * s);
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) {
        const __m512i x = four_inputs(q[t] + 4 * s);
#pragma GCC unroll 2
        for (int c = 0; c < Count; ++c) sum[t][c] = multiply_add(sum[t][c], w[c], x);
      }
    }
  }
};

template <int Tokens, int Count, bool Zero>
void multiply_tiles(const Matrix& m, const Activations& x, const uint8_t* strip, int64_t tile, int64_t token, float* y, int64_t y_stride) {
  const int64_t tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  Block<Tokens, Count> block;
  __m512 total[Tokens][Count];
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
    block.q[t] = x.q + (token + t) * x.stride;
#pragma GCC unroll 2
    for (int c = 0; c < Count; ++c) total[t][c] = _mm512_setzero_ps();
  }
  Groups groups(m);
  Factors factors[Tokens];
  for (int64_t a = 0; a < x.groups; ++a, groups.next()) {
    const int64_t i = a % kChunk;
    if (i == 0) {
      for (int t = 0; t < Tokens; ++t) {
        const int64_t at = (token + t) * x.groups + a;
        factors[t].fill(m.integer, 0, x.scale + at, x.sum + at, chunk_end(a, x.groups) - a);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 2
      for (int c = 0; c < Count; ++c) block.sum[t][c] = factors[t].start_of(i);
    }
    const int64_t end = a + 1 == x.groups ? m.kblocks * (kBlockInputs / 4) : (a + 1) * m.activation_group / 4;
    block.multiply(strip, tile_bytes, a * m.activation_group / 4, end);
#pragma GCC unroll 2
    for (int c = 0; c < Count; ++c) {
      const __m512 scale = load_scales(m, tile + c, groups.current());
      const __m512 base = Zero ? base_less_zero(m, tile + c, groups.current()) : scale;
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) total[t][c] = finish<Zero>(total[t][c], block.sum[t][c], factors[t], i, scale, base);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 2
    for (int c = 0; c < Count; ++c) store_rows(m, tile + c, y + (token + t) * y_stride, total[t][c]);
  }
}

template <int Tokens, bool Zero>
void multiply_tokens(const Matrix& m, const Activations& x, const uint8_t* strip, int64_t begin, int64_t end, int64_t token, float* y, int64_t y_stride) {
  const int64_t tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  int64_t tile = begin;
  for (; tile + 2 <= end; tile += 2) multiply_tiles<Tokens, 2, Zero>(m, x, strip + (tile - begin) * tile_bytes, tile, token, y, y_stride);
  if (tile < end) multiply_tiles<Tokens, 1, Zero>(m, x, strip + (tile - begin) * tile_bytes, tile, token, y, y_stride);
}

template <bool Zero>
void multiply_strip(const Matrix& m, const Activations& x, int64_t tokens, const uint8_t* strip, int64_t begin, int64_t end, float* y, int64_t y_stride) {
  int64_t token = 0;
  for (; token + 8 <= tokens; token += 8) multiply_tokens<8, Zero>(m, x, strip, begin, end, token, y, y_stride);
  switch (tokens - token) {
    case 1: return multiply_tokens<1, Zero>(m, x, strip, begin, end, token, y, y_stride);
    case 2: return multiply_tokens<2, Zero>(m, x, strip, begin, end, token, y, y_stride);
    case 3: return multiply_tokens<3, Zero>(m, x, strip, begin, end, token, y, y_stride);
    case 4: return multiply_tokens<4, Zero>(m, x, strip, begin, end, token, y, y_stride);
    case 5: return multiply_tokens<5, Zero>(m, x, strip, begin, end, token, y, y_stride);
    case 6: return multiply_tokens<6, Zero>(m, x, strip, begin, end, token, y, y_stride);
    case 7: return multiply_tokens<7, Zero>(m, x, strip, begin, end, token, y, y_stride);
    default: return;
  }
}

template <int K, Output Out>
void matrix_tiles(const Matrix& m, const uint8_t* value, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end,
                  uint8_t* scratch) {
  const TablesOf<K> tables(value);
  const int64_t step = tiles_per_strip(m), tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  for (int64_t tile = begin; tile < end; tile += step) {
    const int64_t stop = tile + step < end ? tile + step : end;
    for (int64_t t = tile; t < stop; ++t) decode_tile<K, Out>(m, tables, t, scratch + (t - tile) * tile_bytes);
    multiply_decoded(m, x, tokens, scratch, tile, stop, y, y_stride);
  }
}

template <int K, Output Out>
void run(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  if (tokens == 1) return vector_tiles<K, Out>(m, m.integer.q, x, y, begin, end);
  matrix_tiles<K, Out>(m, m.integer.q, x, tokens, y, y_stride, begin, end, scratch);
}

}  // namespace

void multiply_decoded(const Matrix& m, const Activations& x, int64_t tokens, const uint8_t* strip, int64_t begin, int64_t end, float* y, int64_t y_stride) {
  if (m.zero_point == nullptr) multiply_strip<false>(m, x, tokens, strip, begin, end, y, y_stride);
  else multiply_strip<true>(m, x, tokens, strip, begin, end, y, y_stride);
}

void fast(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  if (m.dims > 1) return joint(m, x, tokens, y, y_stride, begin, end, scratch);
  for_kind(m, [&]<int K>() {
    // Below k = 8 a lookup costs no more than the mask that a plain code would need.
    if constexpr (K == 8) {
      if (m.integer.identity) return run<K, Output::codes>(m, x, tokens, y, y_stride, begin, end, scratch);
    }
    run<K, Output::looked_up>(m, x, tokens, y, y_stride, begin, end, scratch);
  });
}

}  // namespace kbit::avx512
