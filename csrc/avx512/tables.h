// Bytes looked up by vpermb: the tables of each kind of codes, and the moves of bits that bring codes to them (decode.h says how).
#pragma once

#include <cstdint>

#include "for_bits.h"
#include "intrinsics.h"
#include "kbit/kbit.h"

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

}  // namespace kbit::avx512
