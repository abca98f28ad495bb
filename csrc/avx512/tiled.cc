// Fast mode for several tokens on AMX: a tile of the matrix, decoded, is a tile of the unit as it lies.
//
// One instruction multiplies 16 tokens × 64 inputs of int8 with 64 inputs × 16 rows of levels, 16,384 multiply-adds into 256 32-bit sums. A
// strip of tiles is decoded once into the second-level cache, 64 bytes for each four inputs, which is the order that the unit wants; tokens'
// bytes are read where they lie. Sums of a group go through memory to the vector unit, which finishes them while the next group is multiplied.
#include <algorithm>
#include <cstring>

#include "avx512.h"

#if defined(KBIT_AMX)
#include "decode.h"
#include "finish.h"
#include "for_bits.h"
#include "scales.h"
#include "tiles.h"

namespace kbit::avx512 {
namespace {

constexpr int kUnitTokens = 16;         // tokens of a multiplication
constexpr int64_t kFewest = 5;     // tokens that pay for the unit
constexpr int kUnderWay = 2;     // groups in the unit before the sums of the first are read back: it takes its time

inline int64_t tile_bytes(const Matrix& m) { return m.kblocks * kBlockInputs * kTileRows; }

// Levels as the unit multiplies them: signed, less their centre, where they fit into int8. Otherwise the bytes of the codebook, and sums begin
// at −centre · Σ q_x.
struct Levels {
  alignas(64) uint8_t value[256];
  bool centred;

  explicit Levels(const IntCodebook& book) {
    const int least = *std::min_element(book.q, book.q + 256), most = *std::max_element(book.q, book.q + 256);
    centred = least - book.centre >= -128 && most - book.centre <= 127;
    const __m512i centre = _mm512_set1_epi8(static_cast<char>(centred ? book.centre : 0));
    for (int i = 0; i < 256; i += 64) _mm512_store_si512(value + i, _mm512_sub_epi8(_mm512_loadu_si512(book.q + i), centre));
  }
};

// What the activations of a group contribute, for sixteen tokens; those that do not exist have zeros.
struct Terms {
  int32_t start[kUnitTokens];  // −centre · Σ q_x, unless the levels are centred
  float unit[kUnitTokens];     // step · a
  float rest[kUnitTokens];     // base · a · Σ q_x, or with zero points a · Σ q_x
};
static_assert(sizeof(Terms) <= 256);  // term_bytes: a group has at least one k-block

void fill_terms(const Matrix& m, const Activations& x, int64_t token, int64_t count, Terms* terms) {
  const __m512i index = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                           _mm512_set1_epi32(static_cast<int>(x.groups)));
  const __m512 step = _mm512_set1_ps(m.integer.step), base = _mm512_set1_ps(m.zero_point == nullptr ? m.integer.base : 1.0f);
  const __m512i centre = _mm512_set1_epi32(-m.integer.centre);
  for (int64_t a = 0; a < x.groups; ++a) {
    const int64_t from = token * x.groups + a;
    const __m512 scale = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), first(count), index, x.scale + from, 4);
    const __m512i sum = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), first(count), index, x.sum + from, 4);
    _mm512_storeu_si512(terms[a].start, _mm512_mullo_epi32(centre, sum));
    _mm512_storeu_ps(terms[a].unit, _mm512_mul_ps(step, scale));
    _mm512_storeu_ps(terms[a].rest, _mm512_mul_ps(base, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(sum))));
  }
}

// Up to sixteen tokens.
struct Block {
  const int8_t* q;
  int64_t stride, tokens, groups;
  const Terms* terms;
};

// Sums of a block's groups with a tile.
template <int Tokens, int Inputs, bool Centred>
class Sums {
 public:
  inline __attribute__((always_inline)) Sums(const Matrix& m, const Block& block, const uint8_t* levels) : m_(m), block_(block), levels_(levels) {}

  inline __attribute__((always_inline)) void begin(int64_t group) {
    if (group >= block_.groups) return;
    int64_t i = group * m_.activation_group;
    const int64_t end = group + 1 == block_.groups ? m_.kblocks * kBlockInputs : i + m_.activation_group;
    tiles::zero<tiles::kSums>();
    for (; i < end; i += Inputs) {
      tiles::load<tiles::kTokens>(block_.q + i, block_.stride);
      tiles::load<tiles::kLevels>(levels_ + i * kTileRows, 64);
      tiles::multiply<Centred>();
    }
    tiles::store<tiles::kSums>(sums_[group % kPlaces], 64);
  }

  inline __attribute__((always_inline)) __m512i of(int64_t group, int token) const { return _mm512_load_si512(sums_[group % kPlaces][token]); }

 private:
  static constexpr int kPlaces = kUnderWay + 2;
  const Matrix& m_;
  const Block& block_;
  const uint8_t* levels_;
  alignas(64) int32_t sums_[kPlaces][Tokens][kTileRows];
};

// The rows of one tile.
template <int Tokens, int Inputs, bool Zero, bool Centred>
void multiply_tile(const Matrix& m, const Block& block, const uint8_t* levels, int64_t tile, float* y, int64_t y_stride) {
  const __mmask16 rows = first(m.rows - tile * kTileRows);
  float* const to = y + tile * kTileRows;
  Sums<Tokens, Inputs, Centred> sums(m, block, levels);
  for (int64_t a = 0; a < kUnderWay; ++a) sums.begin(a);
  __m512 total[Tokens];
#pragma GCC unroll 16
  for (int t = 0; t < Tokens; ++t) {
    if (t < block.tokens) _mm_prefetch(reinterpret_cast<const char*>(to + t * y_stride + kTileRows), _MM_HINT_ET0);
    total[t] = _mm512_setzero_ps();
  }
  Groups groups(m);
  for (int64_t a = 0; a < block.groups; ++a, groups.next()) {
    sums.begin(a + kUnderWay);
    const Terms& terms = block.terms[a];
    const __m512 scale = load_scales(m, tile, groups.current());
    const __m512 base = Zero ? base_less_zero(m, tile, groups.current()) : scale;
#pragma GCC unroll 16
    for (int t = 0; t < Tokens; ++t) {
      __m512i dot = sums.of(a, t);
      if constexpr (!Centred) dot = _mm512_add_epi32(dot, _mm512_set1_epi32(terms.start[t]));
      __m512 rest = _mm512_set1_ps(terms.rest[t]);
      if constexpr (Zero) rest = _mm512_mul_ps(base, rest);
      total[t] = add_group(total[t], dot, _mm512_set1_ps(terms.unit[t]), rest, scale);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < Tokens; ++t) {
    if (t < block.tokens) _mm512_mask_storeu_ps(to + t * y_stride, rows, total[t]);
  }
}

// Decoded tiles [begin, end).
struct Strip {
  const uint8_t* levels;
  int64_t begin, end;
  bool centred;
};

template <int Tokens, int Inputs, bool Zero, bool Centred>
void multiply_tiles(const Matrix& m, const Block& block, const Strip& strip, float* y, int64_t y_stride) {
  for (int64_t tile = strip.begin; tile < strip.end; ++tile) {
    multiply_tile<Tokens, Inputs, Zero, Centred>(m, block, strip.levels + (tile - strip.begin) * tile_bytes(m), tile, y, y_stride);
  }
}

template <int Tokens, int Inputs>
void multiply_strip(const Matrix& m, const Block& block, const Strip& strip, float* y, int64_t y_stride) {
  if (m.zero_point == nullptr) {
    if (strip.centred) multiply_tiles<Tokens, Inputs, false, true>(m, block, strip, y, y_stride);
    else multiply_tiles<Tokens, Inputs, false, false>(m, block, strip, y, y_stride);
  } else {
    if (strip.centred) multiply_tiles<Tokens, Inputs, true, true>(m, block, strip, y, y_stride);
    else multiply_tiles<Tokens, Inputs, true, false>(m, block, strip, y, y_stride);
  }
}

// The unit is configured for the block's tokens.
template <int Inputs>
void multiply_block(const Matrix& m, const Block& block, const Strip& strip, float* y, int64_t y_stride) {
  if (block.tokens <= 4) multiply_strip<4, Inputs>(m, block, strip, y, y_stride);
  else if (block.tokens <= 8) multiply_strip<8, Inputs>(m, block, strip, y, y_stride);
  else multiply_strip<16, Inputs>(m, block, strip, y, y_stride);
}

// One block of tokens: every tile is multiplied as it is decoded, in the first-level cache.
template <int Inputs, class Decode>
void one_block(const Matrix& m, const Activations& x, int64_t tokens, Strip strip, Decode&& decode, Terms* terms, float* y, int64_t y_stride) {
  fill_terms(m, x, 0, tokens, terms);
  const Block block{x.q, x.stride, tokens, x.groups, terms};
  tiles::Configuration(static_cast<int>(tokens), Inputs).load();
  for (int64_t tile = strip.begin; tile < strip.end; ++tile) {
    decode(tile, tile + 1);
    multiply_block<Inputs>(m, block, {strip.levels, tile, tile + 1, strip.centred}, y, y_stride);
  }
}

// More of them meet a strip of decoded tiles in the second-level cache.
template <int Inputs, class Decode>
void many_blocks(const Matrix& m, const Activations& x, int64_t tokens, Strip strip, Decode&& decode, Terms* terms, float* y, int64_t y_stride) {
  const int64_t step = tiles_per_strip(m);
  for (int64_t tile = strip.begin; tile < strip.end; tile += step) {
    const int64_t stop = std::min(tile + step, strip.end);
    decode(tile, stop);
    for (int64_t token = 0, count = 0; token < tokens; token += kUnitTokens) {
      const int64_t before = count;
      count = std::min<int64_t>(tokens - token, kUnitTokens);
      if (count != before) tiles::Configuration(static_cast<int>(count), Inputs).load();
      fill_terms(m, x, token, count, terms);
      const Block block{x.q + token * x.stride, x.stride, count, x.groups, terms};
      multiply_block<Inputs>(m, block, {strip.levels, tile, stop, strip.centred}, y + token * y_stride, y_stride);
    }
  }
}

}  // namespace

void tiled(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  if (tokens < kFewest || m.activation_group % kBlockInputs != 0) return fast(m, x, tokens, y, y_stride, begin, end, scratch);
  const Levels levels(m.integer);
  auto* const terms = reinterpret_cast<Terms*>(scratch);
  uint8_t* const decoded = scratch + term_bytes(m);
  const Strip all{decoded, begin, end, levels.centred};
  const bool wide = m.activation_group % 64 == 0 && m.kblocks % 2 == 0;  // groups are whole multiplications of 64 inputs, or else of 32
  for_bits(m.bits, [&]<int K>() {
    const Tables<K> tables(levels.value);
    const auto decode = [&](int64_t tile, int64_t stop) {
      for (int64_t t = tile; t < stop; ++t) decode_tile<K, Output::looked_up>(m, tables, t, decoded + (t - tile) * tile_bytes(m));
    };
    if (tokens <= kUnitTokens) {
      if (wide) one_block<64>(m, x, tokens, all, decode, terms, y, y_stride);
      else one_block<32>(m, x, tokens, all, decode, terms, y, y_stride);
    } else {
      if (wide) many_blocks<64>(m, x, tokens, all, decode, terms, y, y_stride);
      else many_blocks<32>(m, x, tokens, all, decode, terms, y, y_stride);
    }
  });
  tiles::release();
}

}  // namespace kbit::avx512
#endif
