// From planes to bytes: a k-block of a tile, 16 rows × 32 inputs, in eight registers of 16 rows × 4 inputs.
//
// vpermb turns 64 index bytes into 64 table bytes and reads only the low six bits of an index. A table that repeats over the bits
// which are not its own ignores them, so that fields need no mask; and since several tables fit into registers, one table for each
// place of a code within those six bits saves most shifts as well:
//
//   k = 1   six tables read bits 0 … 5 where they lie; one shift for bits 6 and 7
//   k = 2   three tables read bits 0–1, 2–3, 4–5; one shift for the fourth field
//   k = 3   two 2-bit fields in bits 0–3 and their two single bits in bits 4 and 5, joined by one vpternlog, are two codes
//   k = 4   one table; a shift for the upper nibble
//   k = 5   the nibble in bits 0–3, the single bits of two neighbouring steps in bits 4 and 5: each step looks at its own
//   k = 6   nibble and pair;  k = 7: nibble, pair and bit 6 by vpermi2b;  k = 8: vpermi2b twice, bit 7 chooses
//
// A trellis (csrc/trellis.h; kinds 8 + bits) looks up six bits as well: windows of 16 bits, four in each quadword by vpmultishiftqb, times the
// multiplier by vpmullw, which leaves the index in the high byte.
#pragma once

#include <cstdint>

#include "for_bits.h"
#include "intrinsics.h"
#include "kbit/kbit.h"
#include "layout.h"

namespace kbit::avx512 {

// What a code turns into: a byte of the caller's table, or for k = 8 the code itself, which needs no lookup.
enum class Output { looked_up, codes };

// Callers' memory may lie anywhere. What is used twice is to be loaded once: g++ would rather read it again, and a 64-byte load
// takes both load ports of a Zen 4.
inline __attribute__((always_inline)) __m512i load(const uint8_t* p) {
  __m512i v = _mm512_loadu_si512(p);
#if defined(__AVX512F__)  // not in the emulation of tests
  asm("" : "+v"(v));
#endif
  return v;
}

// Moves bit `From` of every byte to bit `To`; what crosses from the neighbouring byte lands outside of the field.
template <int From, int To>
inline __attribute__((always_inline)) __m512i move(__m512i v) {
  if constexpr (From > To) return _mm512_srli_epi16(v, From - To);
  if constexpr (From < To) return _mm512_slli_epi16(v, To - From);
  return v;
}

// Bits of `low` where the mask is set, of `high` elsewhere.
inline __attribute__((always_inline)) __m512i join(__m512i low, __m512i mask, __m512i high) {
  return _mm512_ternarylogic_epi32(low, mask, high, 0xe2);
}

// ---------------------------------------------------------------- tables

constexpr int kTrellisTable = 9;  // six bits in their order

constexpr int table_count(int bits) {
  constexpr int counts[10] = {0, 6, 3, 2, 1, 2, 1, 1, 1, 1};
  return counts[bits];
}

// Bit of the index that holds bit `bit` of the code, for table `table`.
constexpr int index_bit(int bits, int table, int bit) {
  switch (bits) {
    case 1: return table;
    case 2: return 2 * table + bit;
    case 3: return bit == 0 ? 4 + table : 2 * table + bit - 1;
    case 5: return bit == 0 ? 4 + table : bit - 1;
    case 6: return bit < 2 ? 4 + bit : bit - 2;
    case 7: return bit == 0 ? 6 : bit < 3 ? 3 + bit : bit - 3;
    default: return bit;
  }
}

// The code that index i of a table stands for.
struct Order {
  alignas(64) uint8_t code[256];
};

constexpr Order order_of(int bits, int table) {
  Order order{};
  for (int i = 0; i < 256; ++i) {
    int code = 0;
    for (int bit = 0; bit < (bits == kTrellisTable ? 6 : bits); ++bit) code |= (i >> index_bit(bits, table, bit) & 1) << bit;
    order.code[i] = static_cast<uint8_t>(code);
  }
  return order;
}

template <int K, int Table>
inline constexpr Order kOrder = order_of(K, Table);

// Tables in registers; `value` holds 256 bytes, value[code] is what a code turns into.
template <int K>
struct Tables {
  static constexpr int kRegisters = K == 8 ? 4 : K == 7 ? 2 : 1;  // of one table
  __m512i part[table_count(K)][kRegisters];

  explicit inline __attribute__((always_inline)) Tables(const uint8_t* value) {
    fill<0>(value);
    if constexpr (table_count(K) > 1) fill<1>(value);
    if constexpr (table_count(K) > 2) fill<2>(value);
    if constexpr (table_count(K) > 3) fill<3>(value), fill<4>(value), fill<5>(value);
  }

  template <int Table>
  inline __attribute__((always_inline)) void fill(const uint8_t* value) {
    for (int i = 0; i < kRegisters; ++i) {
      const __m512i codes = load(kOrder<K, Table>.code + 64 * i);
      if constexpr (K <= 6 || K == kTrellisTable) part[Table][i] = _mm512_permutexvar_epi8(codes, load(value));
      if constexpr (K == 7) part[Table][i] = _mm512_permutex2var_epi8(load(value), codes, load(value + 64));
      if constexpr (K == 8) part[Table][i] = load(value + 64 * i);
    }
  }

  template <int Table>
  inline __attribute__((always_inline)) __m512i look_up(__m512i index) const {
    if constexpr (K <= 6 || K == kTrellisTable) return _mm512_permutexvar_epi8(index, part[Table][0]);
    if constexpr (K == 7) return _mm512_permutex2var_epi8(part[Table][0], index, part[Table][1]);
    if constexpr (K == 8) {
      const __m512i low = _mm512_permutex2var_epi8(part[Table][0], index, part[Table][1]);
      const __m512i high = _mm512_permutex2var_epi8(part[Table][2], index, part[Table][3]);
      return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
    }
  }
};

template <int K>
using TablesOf = Tables<is_trellis(K) ? kTrellisTable : K>;

// ---------------------------------------------------------------- decoding

// Places of two windows in each 32-bit word, for vpmultishiftqb: their bits begin at bit Low and bit High of the word.
struct Places {
  alignas(64) uint8_t shift[64];
};

constexpr Places places_of(int low, int high) {
  Places places{};
  for (int i = 0; i < 64; ++i) places.shift[i] = static_cast<uint8_t>((i & 4) * 8 + (i & 2 ? high : low) + (i & 1) * 8);
  return places;
}

template <int Low, int High>
inline constexpr Places kPlaces = places_of(Low, High);

// The 32 bits of each row's stream that end with bit End of the k-block.
template <int Bits, int End>
inline __attribute__((always_inline)) __m512i source(const uint8_t* const* blocks) {
  constexpr int line = (End - 1) / 32, used = End - 32 * line;
  const __m512i present = load(blocks[0] + 64 * line);
  if constexpr (used == 32) return present;
  const __m512i previous = load(line > 0 ? blocks[0] + 64 * (line - 1) : blocks[1]);
  return _mm512_or_si512(_mm512_slli_epi32(previous, used), _mm512_srli_epi32(present, 32 - used));
}

// As decode, of a trellis: blocks[0] points at the lines of the k-block, blocks[1] at the line before them.
template <int Bits, Output Out, class Emit>
inline __attribute__((always_inline)) void decode_trellis(const uint8_t* const* blocks, const Tables<kTrellisTable>& t, Emit& emit) {
  constexpr int each = trellis_steps_of_word(Bits);
  const __m512i multiplier = _mm512_set1_epi16(static_cast<int16_t>(trellis_multiplier(Bits)));
  const __m512i low_bytes = _mm512_set1_epi16(0x00ff);
  const auto group = [&]<int G>() __attribute__((always_inline)) {
    const __m512i word = source<Bits, 4 * Bits * each * (G + 1)>(blocks);
    const auto step = [&]<int I>() __attribute__((always_inline)) {
      // Bits after the window of the step's first input.
      constexpr int after = Bits * (4 * (each - I) - 1);
      const __m512i even = _mm512_multishift_epi64_epi8(load(kPlaces<after, after - 2 * Bits>.shift), word);
      const __m512i odd = _mm512_multishift_epi64_epi8(load(kPlaces<after - Bits, after - 3 * Bits>.shift), word);
      const __m512i first = _mm512_srli_epi16(_mm512_mullo_epi16(even, multiplier), 8);
      emit.template at<each * G + I>(t.template look_up<0>(join(first, low_bytes, _mm512_mullo_epi16(odd, multiplier))));
    };
    step.template operator()<0>();
    if constexpr (each > 1) step.template operator()<1>();
    if constexpr (each > 2) step.template operator()<2>(), step.template operator()<3>();
  };
  group.template operator()<0>(), group.template operator()<1>();
  if constexpr (each < 4) group.template operator()<2>(), group.template operator()<3>();
  if constexpr (each < 2) {
    group.template operator()<4>(), group.template operator()<5>();
    group.template operator()<6>(), group.template operator()<7>();
  }
}

// Emits the eight registers of a k-block: emit.template at<S>(register) for step S, inputs 4S … 4S + 3, steps in ascending order
// within each half of four. `blocks[p]` points at the k-block in plane p.
template <int K, Output Out, class Emit>
inline __attribute__((always_inline)) void decode(const uint8_t* const* blocks, const TablesOf<K>& t, Emit& emit) {
  [[maybe_unused]] const __m512i nibbles = _mm512_set1_epi8(0x0f);
  if constexpr (is_trellis(K)) {
    decode_trellis<bits_of(K), Out>(blocks, t, emit);
  } else if constexpr (K == 1) {
    const __m512i v = load(blocks[0]);  // bits 0…7 hold steps 0 1 4 5 2 3 6 7
    const __m512i top = move<6, 0>(v);
    emit.template at<0>(t.template look_up<0>(v)), emit.template at<1>(t.template look_up<1>(v));
    emit.template at<2>(t.template look_up<4>(v)), emit.template at<3>(t.template look_up<5>(v));
    emit.template at<4>(t.template look_up<2>(v)), emit.template at<5>(t.template look_up<3>(v));
    emit.template at<6>(t.template look_up<0>(top)), emit.template at<7>(t.template look_up<1>(top));
  } else if constexpr (K == 2) {
    const auto quarter = [&]<int I>() __attribute__((always_inline)) {
      const __m512i v = load(blocks[0] + 64 * I);
      emit.template at<4 * I>(t.template look_up<0>(v)), emit.template at<4 * I + 1>(t.template look_up<1>(v));
      emit.template at<4 * I + 2>(t.template look_up<2>(v)), emit.template at<4 * I + 3>(t.template look_up<0>(move<6, 0>(v)));
    };
    quarter.template operator()<0>(), quarter.template operator()<1>();
  } else if constexpr (K == 3) {
    const __m512i one = load(blocks[1]);
    const auto quarter = [&]<int I>() __attribute__((always_inline)) {
      const __m512i two = load(blocks[0] + 64 * I);
      const __m512i high = join(move<4, 0>(two), nibbles, move<single_bit_position(4 * I + 2), 4>(one));
      const __m512i low = join(two, nibbles, move<single_bit_position(4 * I), 4>(one));
      emit.template at<4 * I>(t.template look_up<0>(low)), emit.template at<4 * I + 1>(t.template look_up<1>(low));
      emit.template at<4 * I + 2>(t.template look_up<0>(high)), emit.template at<4 * I + 3>(t.template look_up<1>(high));
    };
    quarter.template operator()<0>(), quarter.template operator()<1>();
  } else if constexpr (K == 8) {
    const auto step = [&]<int S>() __attribute__((always_inline)) {
      const __m512i v = load(blocks[0] + 64 * S);
      if constexpr (Out == Output::codes) emit.template at<S>(v);
      if constexpr (Out == Output::looked_up) emit.template at<S>(t.template look_up<0>(v));
    };
    step.template operator()<0>(), step.template operator()<1>(), step.template operator()<2>(), step.template operator()<3>();
    step.template operator()<4>(), step.template operator()<5>(), step.template operator()<6>(), step.template operator()<7>();
  } else {
    [[maybe_unused]] const __m512i below_six = _mm512_set1_epi8(0x3f);
    [[maybe_unused]] const __m512i pairs[2] = {load(blocks[K >= 6 ? 1 : 0]), load(blocks[K >= 6 ? 1 : 0] + 64)};
    [[maybe_unused]] const __m512i one = load(blocks[K == 5 ? 1 : K == 7 ? 2 : 0]);
    const auto step = [&]<int S>(__m512i four) __attribute__((always_inline)) {
      if constexpr (K == 4) emit.template at<S>(t.template look_up<0>(four));
      if constexpr (K == 5) {
        const __m512i index = join(four, nibbles, move<single_bit_position(S / 2 * 2), 4>(one));
        emit.template at<S>(t.template look_up<S % 2>(index));
      }
      if constexpr (K >= 6) {
        __m512i index = join(four, nibbles, move<S % 4 * 2, 4>(pairs[S / 4]));
        if constexpr (K == 7) index = join(index, below_six, move<single_bit_position(S), 6>(one));
        emit.template at<S>(t.template look_up<0>(index));
      }
    };
    const auto pair_of_steps = [&]<int I>() __attribute__((always_inline)) {
      const __m512i v = load(blocks[0] + 64 * I);
      const __m512i upper = move<4, 0>(v);
      step.template operator()<2 * I>(v);
      step.template operator()<2 * I + 1>(upper);
    };
    pair_of_steps.template operator()<0>(), pair_of_steps.template operator()<1>();
    pair_of_steps.template operator()<2>(), pair_of_steps.template operator()<3>();
  }
}

constexpr int kPlaneAhead = 2560;  // bytes of each plane asked for ahead of their use

// Into the second level: measured best of both and of 0 … 10240 bytes on a Granite Rapids. Lines on their way to the first are too few.
template <int Width>
inline __attribute__((always_inline)) void ask_ahead(const uint8_t* block) {
#pragma GCC unroll 8
  for (int line = 0; line < Width; ++line) _mm_prefetch(block + kPlaneAhead + 64 * line, _MM_HINT_T1);
}

// Pointers of a tile's planes, advanced k-block by k-block.
template <int K>
struct Cursor {
  const uint8_t* blocks[3];
  inline __attribute__((always_inline)) Cursor(const Matrix& m, int64_t tile) { block_pointers(m, tile, 0, blocks); }
  explicit inline __attribute__((always_inline)) Cursor(const uint8_t* const* first) {
    for (int p = 0; p < plane_count(K); ++p) blocks[p] = first[p];
  }
  // Asks for what lies ahead: a block's arithmetic fills the reorder buffer, so that its loads alone do not run far enough ahead.
  inline __attribute__((always_inline)) void prefetch() const {
    ask_ahead<plane_width(K, 0)>(blocks[0]);
    if constexpr (plane_count(K) > 1) ask_ahead<plane_width(K, 1)>(blocks[1]);
    if constexpr (plane_count(K) > 2) ask_ahead<plane_width(K, 2)>(blocks[2]);
  }
  inline __attribute__((always_inline)) void next() {
    blocks[0] += 64 * plane_width(K, 0);
    if constexpr (plane_count(K) > 1) blocks[1] += 64 * plane_width(K, 1);
    if constexpr (plane_count(K) > 2) blocks[2] += 64 * plane_width(K, 2);
  }
};

// Of a trellis: its lines, and the line before them.
template <int K>
  requires(is_trellis(K))
struct Cursor<K> {
  static constexpr int kBits = bits_of(K);
  const uint8_t* blocks[3];
  inline __attribute__((always_inline)) Cursor(const Matrix& m, int64_t tile) { block_pointers(m, tile, 0, blocks); }
  explicit inline __attribute__((always_inline)) Cursor(const uint8_t* const* first) : blocks{first[0], first[1], nullptr} {}
  inline __attribute__((always_inline)) void prefetch() const { ask_ahead<kBits>(blocks[0]); }
  inline __attribute__((always_inline)) void next() {
    blocks[1] = blocks[0] + 64 * (kBits - 1);
    blocks[0] += 64 * kBits;
  }
};

// Writes the bytes of a k-block in the order that they are read again: 64 for each four inputs.
struct Store {
  uint8_t* out;
  template <int S>
  inline __attribute__((always_inline)) void at(__m512i bytes) {
    _mm512_storeu_si512(out + 64 * S, bytes);
  }
};

// The bytes of `count` k-blocks, 32 · 16 each. `blocks` is moved on.
template <int K, Output Out>
void decode_blocks(const TablesOf<K>& shared, const uint8_t** blocks, int64_t count, uint8_t* out) {
  const TablesOf<K> tables = shared;  // in registers: a copy that no store can change
  Cursor<K> cursor(blocks);
  for (int64_t block = 0; block < count; ++block, cursor.next()) {
    cursor.prefetch();
    Store store{out + block * kBlockInputs * kTileRows};
    decode<K, Out>(cursor.blocks, tables, store);
  }
  for (int p = 0; p < (is_trellis(K) ? 2 : plane_count(K)); ++p) blocks[p] = cursor.blocks[p];
}

template <int K, Output Out>
void decode_tile(const Matrix& m, const TablesOf<K>& tables, int64_t tile, uint8_t* out) {
  const uint8_t* blocks[3];
  block_pointers(m, tile, 0, blocks);
  decode_blocks<K, Out>(tables, blocks, m.kblocks, out);
}

}  // namespace kbit::avx512
