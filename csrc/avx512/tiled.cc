// Fast mode for several tokens on AMX: a tile of the matrix, decoded, is a tile of the unit as it lies.
//
// One instruction multiplies 16 tokens × 64 inputs of int8 with 64 inputs × 16 rows of levels, 16,384 multiply-adds into 256 32-bit sums. A
// tile decodes to 64 bytes for each four inputs, which is the order that the unit wants: for many tokens a strip of tiles at once, into the
// second-level cache; for up to 32 a group at a time, as it is needed. Tokens' bytes are read where they lie. Sums of a group go through
// memory to the vector unit, which finishes them while the next group is multiplied.
#include <cstring>

#include "avx512.h"

#if defined(KBIT_AMX)
#include "decode.h"
#include "finish.h"
#include "for_bits.h"
#include "for_joint.h"
#include "joint.h"
#include "scales.h"
#include "tiles.h"

namespace kbit::avx512 {
namespace {

constexpr int kUnitTokens = 16;  // tokens of a multiplication
constexpr int64_t kFewest = 5;   // tokens that pay for the unit
constexpr int kUnderWay = 2;     // groups in the unit before the sums of the first are read back: it takes its time

// Levels as the unit multiplies them: signed, less their centre, where they fit into int8. Otherwise the bytes of the codebook, and sums begin
// at −centre · Σ q_x.
struct Book {
  alignas(64) uint8_t value[256];
  bool centred;

  explicit Book(const IntCodebook& book) {
    int least = book.q[0], most = book.q[0];
    for (const int q : book.q) least = q < least ? q : least, most = q > most ? q : most;
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

// Up to sixteen tokens; the first `others` belong to the block before, too, which writes their outputs.
struct Block {
  const int8_t* q;
  int64_t stride, tokens, others, groups;
  const Terms* terms;
  float* y;
  inline __attribute__((always_inline)) bool writes(int t) const { return t >= others && t < tokens; }
};

// Inputs of a group, whole k-blocks: the last one has the padding too.
struct Inputs {
  int64_t begin, end;
  inline __attribute__((always_inline)) Inputs(const Matrix& m, int64_t group, int64_t groups)
      : begin(group * m.activation_group), end(group + 1 == groups ? m.kblocks * kBlockInputs : begin + m.activation_group) {}
};

// Levels of a tile that has been decoded.
struct Decoded {
  const uint8_t* levels;
  inline __attribute__((always_inline)) void prepare(const Inputs&, int64_t) {}
  inline __attribute__((always_inline)) const uint8_t* of(const Inputs& inputs, int64_t) const { return levels + inputs.begin * kTileRows; }
};

using Decode = void (*)(const void* tables, const uint8_t** blocks, int64_t count, uint8_t* out);

template <int K>
void decode_some(const void* tables, const uint8_t** blocks, int64_t count, uint8_t* out) {
  decode_blocks<K, Output::looked_up>(*static_cast<const TablesOf<K>*>(tables), blocks, count, out);
}

template <int K, int D>
void decode_joint(const void* tables, const uint8_t** blocks, int64_t count, uint8_t* out) {
  decode_joint_blocks<K, D>(*static_cast<const JointTables<K, D>*>(tables), blocks, count / D, out);
}

// Levels of a tile that is decoded group by group, each once and in order. `m` is the matrix as its planes lie.
class Fresh {
 public:
  inline __attribute__((always_inline)) Fresh(const Matrix& m, int64_t tile, Decode decode, const void* tables) : decode_(decode), tables_(tables) {
    block_pointers(m, tile, 0, blocks_);
  }
  inline __attribute__((always_inline)) void prepare(const Inputs& inputs, int64_t group) {
    decode_(tables_, blocks_, (inputs.end - inputs.begin) / kBlockInputs, levels_[group % 2]);
  }
  inline __attribute__((always_inline)) const uint8_t* of(const Inputs&, int64_t group) const { return levels_[group % 2]; }

 private:
  static constexpr int kMostInputs = 128 + kBlockInputs;
  Decode decode_;
  const void* tables_;
  const uint8_t* blocks_[3];
  alignas(64) uint8_t levels_[2][kMostInputs * kTileRows];
};

// Sums of the groups of one block or two with a tile.
template <int Blocks, int Tokens, int Step, bool Centred, class Levels>
class Sums {
 public:
  inline __attribute__((always_inline)) Sums(const Matrix& m, const Block* blocks, Levels& levels) : m_(m), blocks_(blocks), levels_(levels) {
    levels_.prepare(Inputs(m_, 0, blocks_->groups), 0);
  }

  // Groups in order.
  inline __attribute__((always_inline)) void begin(int64_t group) {
    const int64_t groups = blocks_->groups;
    if (group >= groups) return;
    if (group + 1 < groups) levels_.prepare(Inputs(m_, group + 1, groups), group + 1);
    const Inputs inputs(m_, group, groups);
    const uint8_t* levels = levels_.of(inputs, group);
    tiles::zero<tiles::kSums>();
    if constexpr (Blocks == 2) tiles::zero<tiles::kOtherSums>();
    for (int64_t i = inputs.begin; i < inputs.end; i += Step, levels += Step * kTileRows) {
      tiles::load<tiles::kLevels>(levels, 64);
      tiles::load<tiles::kTokens>(blocks_[0].q + i, blocks_[0].stride);
      tiles::multiply<tiles::kSums, Centred>();
      if constexpr (Blocks == 2) {
        tiles::load<tiles::kTokens>(blocks_[1].q + i, blocks_[1].stride);
        tiles::multiply<tiles::kOtherSums, Centred>();
      }
    }
    tiles::store<tiles::kSums>(sums_[group % kPlaces][0], 64);
    if constexpr (Blocks == 2) tiles::store<tiles::kOtherSums>(sums_[group % kPlaces][1], 64);
  }

  inline __attribute__((always_inline)) __m512i of(int64_t group, int block, int token) const {
    return _mm512_load_si512(sums_[group % kPlaces][block][token]);
  }

 private:
  static constexpr int kPlaces = kUnderWay + 2;
  const Matrix& m_;
  const Block* blocks_;
  Levels& levels_;
  alignas(64) int32_t sums_[kPlaces][Blocks][Tokens][kTileRows];
};

// The rows of one tile.
template <int Blocks, int Tokens, int Step, bool Zero, bool Centred, class Levels>
void multiply_tile(const Matrix& m, const Block* blocks, Levels& levels, int64_t tile, int64_t y_stride) {
  const __mmask16 rows = first(m.rows - tile * kTileRows);
  Sums<Blocks, Tokens, Step, Centred, Levels> sums(m, blocks, levels);
  for (int64_t a = 0; a < kUnderWay; ++a) sums.begin(a);
  __m512 total[Blocks][Tokens];
  for (int b = 0; b < Blocks; ++b) {
    const float* const next = blocks[b].y + (tile + 1) * kTileRows;
#pragma GCC unroll 16
    for (int t = 0; t < Tokens; ++t) {
      if (blocks[b].writes(t)) _mm_prefetch(reinterpret_cast<const char*>(next + t * y_stride), _MM_HINT_ET0);
      total[b][t] = _mm512_setzero_ps();
    }
  }
  Groups groups(m);
  for (int64_t a = 0; a < blocks->groups; ++a, groups.next()) {
    sums.begin(a + kUnderWay);
    prefetch_scales(m, tile, groups.current());
    const __m512 scale = load_scales(m, tile, groups.current());
    const __m512 base = Zero ? base_less_zero(m, tile, groups.current()) : scale;
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; ++b) {
      const Terms& terms = blocks[b].terms[a];
#pragma GCC unroll 16
      for (int t = 0; t < Tokens; ++t) {
        __m512i dot = sums.of(a, b, t);
        if constexpr (!Centred) dot = _mm512_add_epi32(dot, _mm512_set1_epi32(terms.start[t]));
        __m512 rest = _mm512_set1_ps(terms.rest[t]);
        if constexpr (Zero) rest = _mm512_mul_ps(base, rest);
        total[b][t] = add_group(total[b][t], dot, _mm512_set1_ps(terms.unit[t]), rest, scale);
      }
    }
  }
  for (int b = 0; b < Blocks; ++b) {
    float* const to = blocks[b].y + tile * kTileRows;
#pragma GCC unroll 16
    for (int t = 0; t < Tokens; ++t) {
      if (blocks[b].writes(t)) _mm512_mask_storeu_ps(to + t * y_stride, rows, total[b][t]);
    }
  }
}

// Chooses the tokens, and whether there are zero points and levels are centred. The unit is configured for the blocks' tokens.
template <int Blocks, int Step, class Levels>
void multiply_tile(const Matrix& m, const Block* blocks, bool centred, Levels& levels, int64_t tile, int64_t y_stride) {
  const auto with = [&]<int Tokens>() {
    if (m.zero_point == nullptr) {
      if (centred) multiply_tile<Blocks, Tokens, Step, false, true>(m, blocks, levels, tile, y_stride);
      else multiply_tile<Blocks, Tokens, Step, false, false>(m, blocks, levels, tile, y_stride);
    } else {
      if (centred) multiply_tile<Blocks, Tokens, Step, true, true>(m, blocks, levels, tile, y_stride);
      else multiply_tile<Blocks, Tokens, Step, true, false>(m, blocks, levels, tile, y_stride);
    }
  };
  if (Blocks == 1 && blocks->tokens <= 8) with.template operator()<8>();
  else with.template operator()<16>();
}

// Not std::min: a shared function compiled for this instruction set might stand in for everybody's.
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// What there is to do. `packed` is the matrix as its planes lie, `m` as its decoded tiles do: they differ with a joint codebook.
struct Task {
  const Matrix &packed, &m;
  const Activations& x;
  int64_t tokens;
  float* y;
  int64_t y_stride;
  int64_t begin, end;  // tiles
  bool centred;
  Decode decode;
  const void* tables;
  Terms* terms;
  uint8_t* strip;

  // `count` tokens from `token` on, their terms filled in.
  Block block(int64_t token, int64_t count, int64_t others, Terms* filled) const {
    fill_terms(m, x, token, count, filled);
    return {x.q + token * x.stride, x.stride, count, others, x.groups, filled, y + token * y_stride};
  }
};

// One block, or two of the same size, since to configure the unit anew costs more than a token that both have.
template <int Blocks, int Step>
void few_tokens(const Task& task) {
  const int64_t size = (task.tokens + Blocks - 1) / Blocks, second = task.tokens - size;
  Block blocks[Blocks];
  blocks[0] = task.block(0, size, 0, task.terms);
  if constexpr (Blocks == 2) blocks[1] = task.block(second, size, size - second, reinterpret_cast<Terms*>(task.strip));
  tiles::Configuration(static_cast<int>(size), Step).load();
  for (int64_t tile = task.begin; tile < task.end; ++tile) {
    Fresh levels(task.packed, tile, task.decode, task.tables);
    multiply_tile<Blocks, Step>(task.m, blocks, task.centred, levels, tile, task.y_stride);
  }
}

template <int Step>
void many_blocks(const Task& task) {
  const Matrix& m = task.m;
  const int64_t step = tiles_per_strip(m), tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  int64_t configured = 0;
  for (int64_t begin = task.begin; begin < task.end; begin += step) {
    const int64_t end = smaller(begin + step, task.end);
    for (int64_t tile = begin; tile < end; ++tile) {
      const uint8_t* blocks[3];
      block_pointers(task.packed, tile, 0, blocks);
      task.decode(task.tables, blocks, m.kblocks, task.strip + (tile - begin) * tile_bytes);
    }
    for (int64_t token = 0; token < task.tokens; token += kUnitTokens) {
      const Block block = task.block(token, smaller(task.tokens - token, kUnitTokens), 0, task.terms);
      if (block.tokens != configured) tiles::Configuration(static_cast<int>(configured = block.tokens), Step).load();
      for (int64_t tile = begin; tile < end; ++tile) {
        Decoded levels{task.strip + (tile - begin) * tile_bytes};
        multiply_tile<1, Step>(m, &block, task.centred, levels, tile, task.y_stride);
      }
    }
  }
}

void run(const Task& task) {
  // Groups are whole multiplications of 64 inputs, or else of 32.
  const bool wide = task.m.activation_group % 64 == 0 && task.m.kblocks % 2 == 0;
  if (task.tokens <= kUnitTokens) {
    if (wide) few_tokens<1, 64>(task);
    else few_tokens<1, 32>(task);
  } else if (task.tokens <= 2 * kUnitTokens) {
    if (wide) few_tokens<2, 64>(task);
    else few_tokens<2, 32>(task);
  } else {
    if (wide) many_blocks<64>(task);
    else many_blocks<32>(task);
  }
}

}  // namespace

void tiled(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  if (tokens < kFewest || m.activation_group % kBlockInputs != 0) return fast(m, x, tokens, y, y_stride, begin, end, scratch);
  const Book book(m.integer);
  const auto task = [&](const Matrix& decoded, Decode decode, const void* tables) {
    run({m, decoded, x, tokens, y, y_stride, begin, end, book.centred, decode, tables, reinterpret_cast<Terms*>(scratch), scratch + term_bytes(m)});
  };
  if (m.dims > 1) {
    const Matrix decoded = flat(m);
    for_joint(m.bits, m.dims, [&]<int K, int D>() {
      const JointTables<K, D> tables(book.value);
      task(decoded, decode_joint<K, D>, &tables);
    });
  } else {
    for_kind(m, [&]<int K>() {
      const TablesOf<K> tables(book.value);
      task(m, decode_some<K>, &tables);
    });
  }
  tiles::release();
}

}  // namespace kbit::avx512
#endif
