// Fast mode: integer levels by pshufb, int8 activations, exact integer dots by maddubs and madd (dot.h).
#include "avx2.h"
#include "decode.h"
#include "dot.h"
#include "finish.h"
#include "for_bits.h"
#include "kernels.h"
#include "scales.h"

namespace kbit::avx2 {
namespace {

// ---------------------------------------------------------------- dots

// Takes the registers of a half-tile as they are decoded. With HalfBlocks, steps 0–3 and 4–7 are summed apart.
template <int Depth, bool HalfBlocks>
struct Dot {
  static constexpr int kChain = Depth < 2 ? 1 : (HalfBlocks && Depth == 8 ? 4 : Depth);
  const int8_t* x;
  __m256i sum[HalfBlocks ? 2 : 1];
  __m256i part;

  template <int N>
  inline __attribute__((always_inline)) void at(int step, __m256i w) {
    const __m256i p = products<Depth>(w, four_inputs(x + 4 * step));
    part = N % kChain == 0 ? p : _mm256_add_epi16(part, p);
    if constexpr (N % kChain == kChain - 1) {
      constexpr int slot = HalfBlocks ? N / 4 : 0;
      sum[slot] = _mm256_add_epi32(sum[slot], widen(part));
    }
  }
};

// Hides where a pointer points. The halves of a tile read the same activations; a compiler that knows keeps eight broadcasts in
// registers between the halves and spills the sums, where loading them again is free.
inline __attribute__((always_inline)) void forget(const int8_t*& pointer) { asm("" : "+r"(pointer)); }

// ---------------------------------------------------------------- one token

// A tile's two halves for one token, group after group.
template <int K, Output Out, int Depth>
inline void vector_tile(const Matrix& m, const Tables& tables, const Activations& x, const Term* terms, int64_t tile, float* y) {
  Cursor<K> cursor(m, tile);
  __m256 total[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  ScaleGroup group(m);
  const int8_t* q = x.q;
  const int64_t group_blocks = m.activation_group / kBlockInputs;
  for (int64_t a = 0, left = m.kblocks; left > 0; ++a, left -= group_blocks, group.next()) {
    Dot<Depth, false> low{q, {_mm256_set1_epi32(terms[a].start)}, {}}, high = low;
    for (int64_t block = left < group_blocks ? left : group_blocks; block > 0; --block) {
      cursor.template emit<Out>(0, tables, low);
      forget(high.x);
      cursor.template emit<Out>(1, tables, high);
      cursor.next();
      low.x += kBlockInputs;
      high.x += kBlockInputs;
    }
    q = low.x;
    total[0] = add_group(m, total[0], low.sum[0], terms[a], tile, *group, 0);
    total[1] = add_group(m, total[1], high.sum[0], terms[a], tile, *group, 1);
  }
  store_rows(m, tile, y, total[0], total[1]);
}

// The same where groups end in the middle of a k-block (sizes 16, 48, 80, 112).
template <int K, Output Out, int Depth>
inline void vector_tile_halves(const Matrix& m, const Tables& tables, const Activations& x, const Term* terms, int64_t tile, float* y) {
  Cursor<K> cursor(m, tile);
  __m256 total[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  __m256i sum[2] = {_mm256_set1_epi32(terms[0].start), _mm256_set1_epi32(terms[0].start)};
  ScaleGroup group(m);
  const int64_t units = m.activation_group / 16;
  int64_t a = 0;
  for (int64_t block = 0; block < m.kblocks; ++block, cursor.next()) {
    const __m256i zero = _mm256_setzero_si256();
    Dot<Depth, true> low{x.q + block * kBlockInputs, {zero, zero}, {}}, high = low;
    cursor.template emit<Out>(0, tables, low);
    forget(high.x);
    cursor.template emit<Out>(1, tables, high);
    for (int unit = 0; unit < 2; ++unit) {
      sum[0] = _mm256_add_epi32(sum[0], low.sum[unit]);
      sum[1] = _mm256_add_epi32(sum[1], high.sum[unit]);
      const int64_t done = 2 * block + unit + 1;
      const bool last = a + 1 == x.groups;
      if (last ? done != 2 * m.kblocks : done != (a + 1) * units) continue;
      for (int half = 0; half < 2; ++half) {
        total[half] = add_group(m, total[half], sum[half], terms[a], tile, *group, half);
        if (!last) sum[half] = _mm256_set1_epi32(terms[a + 1].start);
      }
      ++a;
      group.next();
    }
  }
  store_rows(m, tile, y, total[0], total[1]);
}

template <int K, Output Out, int Depth>
void vector_tiles(const Matrix& m, const Tables& tables, const Activations& x, Term* terms, float* y, int64_t begin, int64_t end) {
  fill_terms(m, kOffset<Depth>, x, 0, terms);
  if (m.activation_group % kBlockInputs == 0) {
    for (int64_t tile = begin; tile < end; ++tile) vector_tile<K, Out, Depth>(m, tables, x, terms, tile, y);
  } else {
    for (int64_t tile = begin; tile < end; ++tile) vector_tile_halves<K, Out, Depth>(m, tables, x, terms, tile, y);
  }
}

// ---------------------------------------------------------------- many tokens

// Writes the decoded bytes of a tile in the order that they are read: 64 bytes (two halves) for each four inputs.
struct Store {
  uint8_t* out;
  template <int N>
  inline __attribute__((always_inline)) void at(int step, __m256i w) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 64 * step), w);
  }
};

template <int K, Output Out>
void decode_tile(const Matrix& m, const Tables& tables, int64_t tile, uint8_t* strip) {
  Cursor<K> cursor(m, tile);
  for (int64_t block = 0; block < m.kblocks; ++block, cursor.next()) {
    Store low{strip + block * kBlockInputs * kTileRows}, high{low.out + 32};
    cursor.template emit<Out>(0, tables, low);
    cursor.template emit<Out>(1, tables, high);
  }
}

// Products of `Tokens` tokens with a decoded tile over the steps [begin, end) (four inputs each), added to `sum`.
template <int Tokens, int Depth>
inline __attribute__((always_inline)) void block_dot(const uint8_t* strip, const int8_t* const* q, int64_t begin, int64_t end,
                                                      __m256i (&sum)[Tokens][2]) {
  constexpr int chain = Depth < 2 ? 1 : (Depth > 4 ? 4 : Depth);
  for (int64_t s = begin; s < end; s += chain) {
    for (int half = 0; half < 2; ++half) {
      __m256i w[chain];
      for (int c = 0; c < chain; ++c) w[c] = load(strip + 64 * (s + c) + 32 * half);
      for (int t = 0; t < Tokens; ++t) {
        const int8_t* x = q[t] + 4 * s;
        forget(x);
        __m256i part = products<Depth>(w[0], four_inputs(x));
        for (int c = 1; c < chain; ++c) part = _mm256_add_epi16(part, products<Depth>(w[c], four_inputs(x + 4 * c)));
        sum[t][half] = _mm256_add_epi32(sum[t][half], widen(part));
      }
    }
  }
}

template <int Tokens, int Depth>
void multiply_tile(const Matrix& m, const Activations& x, const Term* terms, const uint8_t* strip, int64_t tile, int64_t token, float* y,
                   int64_t y_stride) {
  const int8_t* q[Tokens];
  __m256 total[Tokens][2];
  for (int t = 0; t < Tokens; ++t) {
    q[t] = x.q + (token + t) * x.stride;
    total[t][0] = total[t][1] = _mm256_setzero_ps();
  }
  ScaleGroup group(m);
  for (int64_t a = 0; a < x.groups; ++a, group.next()) {
    const int64_t begin = a * m.activation_group / 4;
    const int64_t end = a + 1 == x.groups ? m.kblocks * (kBlockInputs / 4) : begin + m.activation_group / 4;
    __m256i sum[Tokens][2];
    for (int t = 0; t < Tokens; ++t) sum[t][0] = sum[t][1] = _mm256_set1_epi32(terms[t * x.groups + a].start);
    block_dot<Tokens, Depth>(strip, q, begin, end, sum);
    for (int t = 0; t < Tokens; ++t) {
      for (int half = 0; half < 2; ++half) {
        total[t][half] = add_group(m, total[t][half], sum[t][half], terms[t * x.groups + a], tile, *group, half);
      }
    }
  }
  for (int t = 0; t < Tokens; ++t) store_rows(m, tile, y + (token + t) * y_stride, total[t][0], total[t][1]);
}

template <int Depth>
void multiply_strip(const Matrix& m, const Activations& x, int64_t tokens, Term* terms, const uint8_t* strip, int64_t begin, int64_t end,
                    float* y, int64_t y_stride) {
  const int64_t tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  const auto tiles = [&]<int Tokens>(int64_t token) {
    for (int t = 0; t < Tokens; ++t) fill_terms(m, kOffset<Depth>, x, token + t, terms + t * x.groups);
    for (int64_t tile = begin; tile < end; ++tile) {
      multiply_tile<Tokens, Depth>(m, x, terms, strip + (tile - begin) * tile_bytes, tile, token, y, y_stride);
    }
  };
  int64_t token = 0;
  for (; token + kTermTokens <= tokens; token += kTermTokens) tiles.template operator()<kTermTokens>(token);
  switch (tokens - token) {
    case 1: return tiles.template operator()<1>(token);
    case 2: return tiles.template operator()<2>(token);
    case 3: return tiles.template operator()<3>(token);
    default: return;
  }
}

// ---------------------------------------------------------------- choosing

// An identity book needs no lookup where the depth leaves codes as they are; k = 3 gets its codes through a table anyway,
// and signed books (k = 8) need q − 128.
template <int K>
constexpr bool kPlainCodes = K != 3 && K != 8;

template <int K>
constexpr int identity_depth() { return K <= 4 ? 8 : K == 5 ? 4 : K == 6 ? 2 : K == 7 ? 1 : 0; }

template <int K, Output Out, int Depth>
void run(const Matrix& m, const Tables& tables, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end,
         uint8_t* scratch) {
  auto* terms = reinterpret_cast<Term*>(scratch);
  if (tokens == 1) return vector_tiles<K, Out, Depth>(m, tables, x, terms, y, begin, end);
  uint8_t* strip = scratch + term_bytes(m);
  const int64_t step = tiles_per_strip(m), tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  for (int64_t tile = begin; tile < end; tile += step) {
    const int64_t stop = tile + step < end ? tile + step : end;
    for (int64_t t = tile; t < stop; ++t) decode_tile<K, Out>(m, tables, t, strip + (t - tile) * tile_bytes);
    multiply_strip<Depth>(m, x, tokens, terms, strip, tile, stop, y, y_stride);
  }
}

// Its levels fill a signed byte, so that every trellis runs at the depth of those books.
void fast_trellis(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  IntCodebook book = m.integer;
  book.depth = 0;
  uint8_t value[256];
  table_values(book, value);
  Tables tables;
  fill_tables(tables, 6, value);
  for_kind(m, [&]<int K>() {
    if constexpr (is_trellis(K)) run<K, Output::levels, 0>(m, tables, x, tokens, y, y_stride, begin, end, scratch);
  });
}

}  // namespace

void multiply_decoded(const Matrix& m, const Activations& x, int64_t tokens, uint8_t* terms, const uint8_t* strip, int64_t begin, int64_t end, float* y,
                      int64_t y_stride) {
  multiply_strip<0>(m, x, tokens, reinterpret_cast<Term*>(terms), strip, begin, end, y, y_stride);
}

void fast(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  if (m.trellis) return fast_trellis(m, x, tokens, y, y_stride, begin, end, scratch);
  if (m.dims > 1) return joint(m, x, tokens, y, y_stride, begin, end, scratch);
  uint8_t value[256];
  table_values(m.integer, value);
  Tables tables;
  fill_tables(tables, m.bits, value);
  for_bits(m.bits, [&]<int K>() {
    if constexpr (kPlainCodes<K>) {
      if (m.integer.identity && m.integer.depth == identity_depth<K>()) {
        return run<K, Output::codes, identity_depth<K>()>(m, tables, x, tokens, y, y_stride, begin, end, scratch);
      }
    }
    if constexpr (K == 8) {
      if (m.integer.identity) return run<K, Output::shifted, 0>(m, tables, x, tokens, y, y_stride, begin, end, scratch);
    }
    for_depth(m.integer.depth, [&]<int Depth>() { run<K, Output::levels, Depth>(m, tables, x, tokens, y, y_stride, begin, end, scratch); });
  });
}

}  // namespace kbit::avx2
