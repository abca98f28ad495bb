// From planes to bytes: the codes or integer levels of a quarter of a k-block, 4 rows × 32 inputs, in eight registers.
//
// Register s holds inputs 4s … 4s+3 of the k-block: byte 4·row + j, which is what one sdot takes. A quarter is 16 of the 64 bytes
// of each plane vector.
//
// For k ≤ 2 a nibble holds several codes; a table for each position looks at its own bits and ignores the others, so that no code
// needs a shift or mask of its own. For k = 3 one bsl puts two bits of the 2-bit plane and, by its bit order, one of the 1-bit
// plane into both nibbles; bit 3 of a nibble is left over and the table ignores it. From k = 4 on codes are joined by
// sli (shift left and insert), which drops what the lower plane has above its field, so that a mask is needed only where the
// upper plane's byte holds a second code. Lookups beyond 64 levels chain tbx, which leaves bytes with an index of 64 or more alone.
//
// A trellis (csrc/trellis.h; kinds 8 + bits) makes six-bit codes: windows of 16 bits, two in each 32-bit lane, times the multiplier.
//
// Internal linkage throughout: nothing compiled for dot product may stand in for a shared inline function elsewhere.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "for_bits.h"
#include "kbit/kbit.h"
#include "layout.h"
#include "unroll.h"

namespace kbit::neon {
namespace {

// Through the tables; or, for k ≥ 4, codes as they are, or codes − 128 as signed bytes (k = 8).
enum class Output { levels, codes, shifted };

// The tables' bytes, 16 a register, filled once a call; Tables holds them in registers.
struct TableBytes {
  uint8_t bytes[256];

  // `value[code]` is what a code turns into.
  TableBytes(int bits, const uint8_t* value) {
    std::memcpy(bytes, value, sizeof bytes);
    if (bits > 3) return;
    for (unsigned i = 0; i < 16; ++i) {
      if (bits == 1)
        for (unsigned f = 0; f < 4; ++f) bytes[16 * f + i] = value[i >> f & 1u];
      if (bits == 2)
        for (unsigned f = 0; f < 2; ++f) bytes[16 * f + i] = value[i >> (2 * f) & 3u];
      if (bits == 3) bytes[i] = value[(i & 3u) << 1 | (i >> 2 & 1u)];
    }
  }
};

// k ≤ 4: `one[position]`, sixteen entries each; beyond, the levels in runs of up to 64.
template <int K>
struct Tables {
  uint8x16_t one[K == 1 ? 4 : K == 2 ? 2 : 1];

  explicit Tables(const TableBytes& from) {
    unroll<K == 1 ? 4 : K == 2 ? 2 : 1>([&]<int I>() KBIT_INLINE { one[I] = vld1q_u8(from.bytes + 16 * I); });
  }
  KBIT_INLINE uint8x16_t operator()(uint8x16_t code) const { return vqtbl1q_u8(one[0], code); }
};

template <>
struct Tables<5> {
  uint8x16x2_t all;

  explicit Tables(const TableBytes& from) : all(vld1q_u8_x2(from.bytes)) {}
  KBIT_INLINE uint8x16_t operator()(uint8x16_t code) const { return vqtbl2q_u8(all, code); }
};

template <int K>
  requires(K >= 6)
struct Tables<K> {
  static constexpr int kRuns = 1 << (K - 6);
  uint8x16x4_t runs[kRuns];

  explicit Tables(const TableBytes& from) {
    unroll<kRuns>([&]<int I>() KBIT_INLINE { runs[I] = vld1q_u8_x4(from.bytes + 64 * I); });
  }
  KBIT_INLINE uint8x16_t operator()(uint8x16_t code) const {
    uint8x16_t value = vqtbl4q_u8(runs[0], code);
    unroll<kRuns - 1>([&]<int I>() KBIT_INLINE {
      code = vsubq_u8(code, vdupq_n_u8(64));
      value = vqtbx4q_u8(value, runs[I + 1], code);
    });
    return value;
  }
};

template <int K>
using TablesOf = Tables<is_trellis(K) ? 6 : K>;

KBIT_INLINE inline uint8x16_t low_nibbles(uint8x16_t v) { return vandq_u8(v, vdupq_n_u8(0x0f)); }
KBIT_INLINE inline uint8x16_t high_nibbles(uint8x16_t v) { return vshrq_n_u8(v, 4); }

// Per-byte shift right that may be by nothing.
template <int Count>
KBIT_INLINE inline uint8x16_t shift_right(uint8x16_t v) {
  if constexpr (Count == 0) return v;
  if constexpr (Count != 0) return vshrq_n_u8(v, Count);
}

// Codes of step S for 4 ≤ k ≤ 7 from a quarter's vectors: the 4-bit plane's four, then the 2-bit plane's two, then the 1-bit plane's.
template <int K, int S>
KBIT_INLINE inline uint8x16_t join(const uint8x16_t* v) {
  const uint8x16_t four = S % 2 == 0 ? v[S / 2] : high_nibbles(v[S / 2]);
  if constexpr (K == 4) return S % 2 == 0 ? low_nibbles(four) : four;
  constexpr int rest = K - 4;
  uint8x16_t lower;
  if constexpr (K == 5) lower = shift_right<single_bit_position(S)>(v[4]);
  if constexpr (K >= 6) lower = shift_right<S % 4 * 2>(v[4 + S / 4]);
  if constexpr (K == 7) lower = vsliq_n_u8(shift_right<single_bit_position(S)>(v[6]), lower, 1);
  if constexpr (K > 4) lower = vsliq_n_u8(lower, four, rest);
  return S % 2 == 0 ? vandq_u8(lower, vdupq_n_u8((1 << K) - 1)) : lower;
}

// Calls emit.template operator()<S>(register) for each step S; `blocks[p]` points at this quarter's first byte in plane p's k-block.
template <int K, Output Out, class Emit>
KBIT_INLINE inline void decode_quarter(const uint8_t* const* blocks, const Tables<K>& t, Emit&& emit) {
  static_assert(Out == Output::levels || K >= 4);
  uint8x16_t v[K];
  const auto read = [&]<int I>() KBIT_INLINE {
    constexpr int first = plane_width(K, 0), second = plane_width(K, 1);
    constexpr int plane = I < first ? 0 : I < first + second ? 1 : 2;
    v[I] = vld1q_u8(blocks[plane] + 64 * (I - (plane > 0 ? first : 0) - (plane > 1 ? second : 0)));
  };
  if constexpr (K != 8) unroll<K>(read);
  if constexpr (K == 1) {  // bits 0…7 hold steps 0 1 4 5 2 3 6 7
    const uint8x16_t low = low_nibbles(v[0]), high = high_nibbles(v[0]);
    unroll<8>([&]<int S>() KBIT_INLINE { emit.template operator()<S>(vqtbl1q_u8(t.one[S / 4 * 2 + S % 2], (S & 2) != 0 ? high : low)); });
  } else if constexpr (K == 2) {
    unroll<2>([&]<int I>() KBIT_INLINE {
      const uint8x16_t low = low_nibbles(v[I]), high = high_nibbles(v[I]);
      unroll<4>([&]<int F>() KBIT_INLINE { emit.template operator()<4 * I + F>(vqtbl1q_u8(t.one[F % 2], F < 2 ? low : high)); });
    });
  } else if constexpr (K == 3) {
    const uint8x16_t pairs = vdupq_n_u8(0x33), one = v[2];
    unroll<2>([&]<int I>() KBIT_INLINE {
      const uint8x16_t even = vbslq_u8(pairs, v[I], I == 0 ? vshlq_n_u8(one, 2) : one);
      const uint8x16_t odd = vbslq_u8(pairs, vshrq_n_u8(v[I], 2), I == 0 ? vshlq_n_u8(one, 1) : vshrq_n_u8(one, 1));
      emit.template operator()<4 * I>(t(low_nibbles(even)));
      emit.template operator()<4 * I + 1>(t(low_nibbles(odd)));
      emit.template operator()<4 * I + 2>(t(high_nibbles(even)));
      emit.template operator()<4 * I + 3>(t(high_nibbles(odd)));
    });
  } else {
    unroll<8>([&]<int S>() KBIT_INLINE {
      uint8x16_t code;
      if constexpr (K == 8) {  // read one by one: its tables fill half of the registers
        read.template operator()<S>();
        code = v[S];
      } else {
        code = join<K, S>(v);
      }
      if constexpr (Out == Output::levels) code = t(code);
      if constexpr (Out == Output::shifted) code = veorq_u8(code, vdupq_n_u8(0x80));
      emit.template operator()<S>(code);
    });
  }
}

// Words shifted right by a count that may be 0.
template <int Count>
KBIT_INLINE inline uint32x4_t shift_words(uint32x4_t v) {
  if constexpr (Count == 0) return v;
  if constexpr (Count != 0) return vshrq_n_u32(v, Count);
}

// The 32 bits of each row's stream that end with bit End of the k-block; rows are those of a quarter of a line.
template <int Bits, int End>
KBIT_INLINE inline uint32x4_t stream_word(const uint8_t* const* blocks) {
  constexpr int line = (End - 1) / 32, used = End - 32 * line;
  const uint32x4_t present = vreinterpretq_u32_u8(vld1q_u8(blocks[0] + 64 * line));
  if constexpr (used == 32) return present;
  if constexpr (used != 32) {
    const uint32x4_t previous = vreinterpretq_u32_u8(vld1q_u8(line > 0 ? blocks[0] + 64 * (line - 1) : blocks[1]));
    return vsliq_n_u32(vshrq_n_u32(present, 32 - used), previous, used);
  }
}

// Products of two windows in each lane, those whose bits begin at bit Low and bit High of the word, with the multiplier.
template <int Bits, int Low, int High>
KBIT_INLINE inline uint16x8_t two_products(uint32x4_t word) {
  const uint32x4_t windows = vsliq_n_u32(shift_words<Low>(word), shift_words<High>(word), 16);
  return vmulq_n_u16(vreinterpretq_u16_u32(windows), trellis_multiplier(Bits));
}

// As decode_quarter, of a trellis: blocks[0] points at the lines of the k-block, blocks[1] at the line before them.
template <int Bits, Output Out, class Emit>
KBIT_INLINE inline void decode_trellis_quarter(const uint8_t* const* blocks, const Tables<6>& t, Emit&& emit) {
  constexpr int each = trellis_steps_of_word(Bits);
  unroll<8>([&]<int S>() KBIT_INLINE {
    const uint32x4_t word = stream_word<Bits, 4 * Bits * each * (S / each + 1)>(blocks);
    constexpr int after = Bits * (4 * (each - S % each) - 1);  // bits after the window of the step's first input
    const uint16x8_t even = two_products<Bits, after, after - 2 * Bits>(word);
    const uint16x8_t odd = two_products<Bits, after - Bits, after - 3 * Bits>(word);
    const uint8x16_t index = vtrn2q_u8(vreinterpretq_u8_u16(even), vreinterpretq_u8_u16(odd));
    const uint8x16_t code = vandq_u8(index, vdupq_n_u8(0x3f));
    emit.template operator()<S>(Out == Output::levels ? t(code) : code);
  });
}

// Pointers of a tile's planes, advanced k-block by k-block.
template <int K>
struct Cursor {
  const uint8_t* blocks[3];

  Cursor(const Matrix& m, int64_t tile) { block_pointers(m, tile, 0, blocks); }
  KBIT_INLINE void next() {
    unroll<plane_count(K)>([&]<int P>() KBIT_INLINE { blocks[P] += 64 * plane_width(K, P); });
  }
  // emit.template operator()<Quarter, Step>(register) for the whole k-block.
  template <Output Out, class Emit>
  KBIT_INLINE void decode(const Tables<K>& t, Emit&& emit) const {
    unroll<4>([&]<int Q>() KBIT_INLINE {
      const uint8_t* at[3];
      unroll<plane_count(K)>([&]<int P>() KBIT_INLINE { at[P] = blocks[P] + 16 * Q; });
      decode_quarter<K, Out>(at, t, [&]<int S>(uint8x16_t w) KBIT_INLINE { emit.template operator()<Q, S>(w); });
    });
  }
};

// Of a trellis: its lines, and the line before them.
template <int K>
  requires(is_trellis(K))
struct Cursor<K> {
  static constexpr int kBits = bits_of(K);
  const uint8_t* blocks[3];

  Cursor(const Matrix& m, int64_t tile) { block_pointers(m, tile, 0, blocks); }
  KBIT_INLINE void next() {
    blocks[1] = blocks[0] + 64 * (kBits - 1);
    blocks[0] += 64 * kBits;
  }
  template <Output Out, class Emit>
  KBIT_INLINE void decode(const Tables<6>& t, Emit&& emit) const {
    unroll<4>([&]<int Q>() KBIT_INLINE {
      const uint8_t* at[2] = {blocks[0] + 16 * Q, blocks[1] + 16 * Q};
      decode_trellis_quarter<kBits, Out>(at, t, [&]<int S>(uint8x16_t w) KBIT_INLINE { emit.template operator()<Q, S>(w); });
    });
  }
};

// Writes a decoded tile in the order that it is read: 64 bytes (four quarters) for each four inputs.
template <int K, Output Out>
void decode_tile(const Matrix& m, const TableBytes& bytes, int64_t tile, uint8_t* strip) {
  const TablesOf<K> tables(bytes);
  Cursor<K> cursor(m, tile);
  for (int64_t block = 0; block < m.kblocks; ++block, cursor.next(), strip += kBlockInputs * kTileRows) {
    cursor.template decode<Out>(tables, [&]<int Q, int S>(uint8x16_t w) KBIT_INLINE { vst1q_u8(strip + 64 * S + 16 * Q, w); });
  }
}

}  // namespace
}  // namespace kbit::neon
