// From planes to bytes: the codes or integer levels of half a k-block, 8 rows × 32 inputs, in eight registers.
//
// Register s holds inputs 4s … 4s+3 of the k-block: byte 4·row + j. A half is rows 0–7 or 8–15 of the tile (32 of the 64 bytes
// of each plane vector).
//
// pshufb reads the low four bits of an index byte (and bit 7, which must be 0). For k ≤ 2 one nibble holds several codes; a table
// per position looks at its own bits and ignores the others, so that no code needs a shift or mask of its own. For k = 3 a 2-bit
// plane fills bits 0–1 of both nibbles and the 1-bit plane, by its bit order, bit 2 of both. k ≥ 5 takes one pshufb for each
// sixteen levels and picks by the remaining code bits, moved to the byte's top, with a tree of blends.
//
// A trellis (csrc/trellis.h; kinds 8 + bits) makes six-bit codes: windows of 16 bits, two in each 32-bit lane, times the multiplier.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "for_bits.h"
#include "kbit/kbit.h"
#include "layout.h"

namespace kbit::avx2 {

// Raw codes (identity books, exact mode), codes − 128 as signed bytes (k = 8 identity), or integer levels through the tables.
enum class Output { codes, shifted, levels };

inline __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }  // callers' memory may lie anywhere
inline __m256i low_nibbles(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(0x0f)); }
inline __m256i high_nibbles(__m256i v) { return low_nibbles(_mm256_srli_epi16(v, 4)); }
inline __m256i look_up(__m256i table, __m256i index) { return _mm256_shuffle_epi8(table, index); }

// Byte tables for pshufb: `count` tables of 16 entries, each repeated in both lanes.
struct Tables {
  alignas(32) uint8_t bytes[16][32];
  __m256i operator[](int i) const { return load(bytes[i]); }
};

// Fills the tables for k bits. `value[code]` is what a code turns into.
inline void fill_tables(Tables& t, int bits, const uint8_t* value) {
  const auto set = [&](int table, int index, unsigned code) { t.bytes[table][index] = t.bytes[table][index + 16] = value[code]; };
  for (unsigned i = 0; i < 16; ++i) {
    switch (bits) {
      case 1:
        for (unsigned f = 0; f < 4; ++f) set(static_cast<int>(f), static_cast<int>(i), i >> f & 1u);
        break;
      case 2:
        for (unsigned f = 0; f < 2; ++f) set(static_cast<int>(f), static_cast<int>(i), i >> (2 * f) & 3u);
        break;
      case 3:
        set(0, static_cast<int>(i), (i & 3u) << 1 | (i >> 2 & 1u));
        break;
      default:
        // Index = the four most significant bits for k < 8 (the 4-bit plane), the low nibble for k = 8; table = the other bits.
        for (unsigned rest = 0; rest < 1u << (bits - 4); ++rest) {
          set(static_cast<int>(rest), static_cast<int>(i), bits == 8 ? rest << 4 | i : i << (bits - 4) | rest);
        }
    }
  }
}

// Picks among tables[first], tables[first + 1 << …] by the top bits of `selectors`, most significant selector first.
template <int Selectors>
inline __m256i pick(const Tables& t, int first, __m256i index, const __m256i* selectors) {
  if constexpr (Selectors == 0) {
    return look_up(t[first], index);
  } else {
    const __m256i low = pick<Selectors - 1>(t, first, index, selectors + 1);
    const __m256i high = pick<Selectors - 1>(t, first + (1 << (Selectors - 1)), index, selectors + 1);
    return _mm256_blendv_epi8(low, high, selectors[0]);
  }
}

// Moves bit `bit` of every byte to bit 7.
template <int Bit>
inline __m256i to_top(__m256i v) {
  return _mm256_slli_epi16(v, 7 - Bit);
}

template <int Bit, int Width>
inline __m256i field(__m256i v) {
  return _mm256_and_si256(_mm256_srli_epi16(v, Bit), _mm256_set1_epi8(static_cast<char>((1 << Width) - 1)));
}

// The 32 bits of each row's stream that end with bit End of the k-block; rows are those of half a line.
template <int Bits, int End>
inline __m256i stream_word(const uint8_t* const* blocks) {
  constexpr int line = (End - 1) / 32, used = End - 32 * line;
  const __m256i present = load(blocks[0] + 64 * line);
  if constexpr (used == 32) return present;
  const __m256i previous = load(line > 0 ? blocks[0] + 64 * (line - 1) : blocks[1]);
  return _mm256_or_si256(_mm256_slli_epi32(previous, used), _mm256_srli_epi32(present, 32 - used));
}

// Two windows in each lane: those whose bits begin at bit Low and bit High of the word.
template <int Low, int High>
inline __m256i two_windows(__m256i word) {
  return _mm256_blend_epi16(_mm256_srli_epi32(word, Low), _mm256_slli_epi32(word, 16 - High), 0xaa);
}

// As decode_half, of a trellis: blocks[0] points at the lines of the k-block, blocks[1] at the line before them.
template <int Bits, Output Out, class Emit>
inline __attribute__((always_inline)) void decode_trellis_half(const uint8_t* const* blocks, const Tables& t, Emit& emit) {
  constexpr int each = trellis_steps_of_word(Bits);
  const auto step = [&]<int S>() __attribute__((always_inline)) {
    const __m256i multiplier = _mm256_set1_epi16(static_cast<int16_t>(trellis_multiplier(Bits)));
    const __m256i word = stream_word<Bits, 4 * Bits * each * (S / each + 1)>(blocks);
    constexpr int after = Bits * (4 * (each - S % each) - 1);  // bits after the window of the step's first input
    const __m256i even = _mm256_mullo_epi16(two_windows<after, after - 2 * Bits>(word), multiplier);
    const __m256i odd = _mm256_mullo_epi16(two_windows<after - Bits, after - 3 * Bits>(word), multiplier);
    const __m256i index = _mm256_blendv_epi8(odd, _mm256_srli_epi16(even, 8), _mm256_set1_epi16(0x00ff));
    if constexpr (Out == Output::levels) {
      const __m256i selectors[2] = {to_top<1>(index), to_top<0>(index)};
      emit.template at<S>(S, pick<2>(t, 0, field<2, 4>(index), selectors));
    } else {
      emit.template at<S>(S, field<0, 6>(index));
    }
  };
  step.template operator()<0>(), step.template operator()<1>(), step.template operator()<2>(), step.template operator()<3>();
  step.template operator()<4>(), step.template operator()<5>(), step.template operator()<6>(), step.template operator()<7>();
}

// Emits the eight registers of a half: emit.template at<N>(S, register) for the N-th emission, which holds step S. The first four
// emissions are steps 0–3 in some order, the last four steps 4–7, so that groups of sixteen inputs can be told apart.
// `blocks[p]` points at this half's first byte in plane p's k-block (second half: + 32).
template <int K, Output Out, class Emit>
inline __attribute__((always_inline)) void decode_half(const uint8_t* const* blocks, const Tables& t, Emit& emit) {
  constexpr bool levels = Out == Output::levels;
  if constexpr (K == 1) {
    const __m256i v = load(blocks[0]);  // bits 0…7 hold steps 0 1 4 5 2 3 6 7
    if constexpr (levels) {
      const __m256i low = low_nibbles(v), high = high_nibbles(v);
      emit.template at<0>(0, look_up(t[0], low)), emit.template at<1>(1, look_up(t[1], low));
      emit.template at<2>(2, look_up(t[0], high)), emit.template at<3>(3, look_up(t[1], high));
      emit.template at<4>(4, look_up(t[2], low)), emit.template at<5>(5, look_up(t[3], low));
      emit.template at<6>(6, look_up(t[2], high)), emit.template at<7>(7, look_up(t[3], high));
    } else {
      emit.template at<0>(0, field<0, 1>(v)), emit.template at<1>(1, field<1, 1>(v));
      emit.template at<2>(2, field<4, 1>(v)), emit.template at<3>(3, field<5, 1>(v));
      emit.template at<4>(4, field<2, 1>(v)), emit.template at<5>(5, field<3, 1>(v));
      emit.template at<6>(6, field<6, 1>(v)), emit.template at<7>(7, field<7, 1>(v));
    }
  } else if constexpr (K == 2) {
    const auto quarter = [&]<int I>() __attribute__((always_inline)) {
      const __m256i v = load(blocks[0] + 64 * I);
      constexpr int n = 4 * I;
      if constexpr (levels) {
        const __m256i low = low_nibbles(v), high = high_nibbles(v);
        emit.template at<n>(n, look_up(t[0], low)), emit.template at<n + 1>(n + 1, look_up(t[1], low));
        emit.template at<n + 2>(n + 2, look_up(t[0], high)), emit.template at<n + 3>(n + 3, look_up(t[1], high));
      } else {
        emit.template at<n>(n, field<0, 2>(v)), emit.template at<n + 1>(n + 1, field<2, 2>(v));
        emit.template at<n + 2>(n + 2, field<4, 2>(v)), emit.template at<n + 3>(n + 3, field<6, 2>(v));
      }
    };
    quarter.template operator()<0>(), quarter.template operator()<1>();
  } else if constexpr (K == 3) {
    // Both nibbles of `even` and `odd` hold the 2-bit plane in bits 0–1 and the 1-bit plane in bit 2. Bits 3 and 7 are 0, also after
    // the shift of words, and pshufb ignores bits 4–6: no nibble needs a mask. Identity books use tables too.
    const __m256i pairs = _mm256_set1_epi8(0x33), singles = _mm256_set1_epi8(0x44);
    const __m256i one = load(blocks[1]);
    const auto quarter = [&]<int I>() __attribute__((always_inline)) {
      const __m256i two = load(blocks[0] + 64 * I);
      const __m256i even_bit = I == 0 ? _mm256_slli_epi16(one, 2) : one;
      const __m256i odd_bit = I == 0 ? _mm256_slli_epi16(one, 1) : _mm256_srli_epi16(one, 1);
      const __m256i even = _mm256_or_si256(_mm256_and_si256(two, pairs), _mm256_and_si256(even_bit, singles));
      const __m256i odd = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(two, 2), pairs), _mm256_and_si256(odd_bit, singles));
      constexpr int n = 4 * I;
      emit.template at<n>(n, look_up(t[0], even)), emit.template at<n + 1>(n + 2, look_up(t[0], _mm256_srli_epi16(even, 4)));
      emit.template at<n + 2>(n + 1, look_up(t[0], odd)), emit.template at<n + 3>(n + 3, look_up(t[0], _mm256_srli_epi16(odd, 4)));
    };
    quarter.template operator()<0>(), quarter.template operator()<1>();
  } else {
    const auto step = [&]<int S>() __attribute__((always_inline)) {
      if constexpr (K == 8) {
        const __m256i v = load(blocks[0] + 64 * S);
        if constexpr (levels) {
          const __m256i selectors[4] = {v, to_top<6>(v), to_top<5>(v), to_top<4>(v)};
          emit.template at<S>(S, pick<4>(t, 0, low_nibbles(v), selectors));
        } else {
          emit.template at<S>(S, Out == Output::shifted ? _mm256_xor_si256(v, _mm256_set1_epi8(-128)) : v);
        }
      } else {
        constexpr int rest = K - 4, single = single_bit_position(S), pair = S % 4 * 2;
        const __m256i packed = load(blocks[0] + 64 * (S / 2));
        const __m256i four = S % 2 == 0 ? low_nibbles(packed) : high_nibbles(packed);
        [[maybe_unused]] const __m256i two = K >= 6 ? load(blocks[1] + 64 * (S / 4)) : four;
        [[maybe_unused]] const __m256i one = K == 6 ? four : load(blocks[K == 5 ? 1 : K == 7 ? 2 : 0]);
        if constexpr (levels) {
          if constexpr (K == 4) emit.template at<S>(S, look_up(t[0], four));
          if constexpr (K == 5) {
            const __m256i selectors[1] = {to_top<single>(one)};
            emit.template at<S>(S, pick<1>(t, 0, four, selectors));
          }
          if constexpr (K == 6) {
            const __m256i selectors[2] = {to_top<pair + 1>(two), to_top<pair>(two)};
            emit.template at<S>(S, pick<2>(t, 0, four, selectors));
          }
          if constexpr (K == 7) {
            const __m256i selectors[3] = {to_top<pair + 1>(two), to_top<pair>(two), to_top<single>(one)};
            emit.template at<S>(S, pick<3>(t, 0, four, selectors));
          }
        } else {
          __m256i code = rest == 0 ? four : _mm256_slli_epi16(four, rest);
          if constexpr (K == 6) code = _mm256_or_si256(code, field<pair, 2>(two));
          if constexpr (K == 7) code = _mm256_or_si256(code, _mm256_slli_epi16(field<pair, 2>(two), 1));
          if constexpr (K == 5 || K == 7) code = _mm256_or_si256(code, field<single, 1>(one));
          emit.template at<S>(S, code);
        }
      }
    };
    step.template operator()<0>(), step.template operator()<1>(), step.template operator()<2>(), step.template operator()<3>();
    step.template operator()<4>(), step.template operator()<5>(), step.template operator()<6>(), step.template operator()<7>();
  }
}

// Pointers of a tile's planes, advanced k-block by k-block. Planes are asked for two kilobytes ahead: the arithmetic of a block
// fills the reorder buffer, so that loads alone would not run far enough ahead of it.
constexpr int64_t kAhead = 2048;

template <int Width>
inline void ask_ahead(const uint8_t* block) {
  for (int line = 0; line < Width; ++line) _mm_prefetch(reinterpret_cast<const char*>(block + 64 * line + kAhead), _MM_HINT_T0);
}

template <int K>
struct Cursor {
  const uint8_t* blocks[3];
  Cursor(const Matrix& m, int64_t tile) { block_pointers(m, tile, 0, blocks); }
  void next() {
    for (int p = 0; p < plane_count(K); ++p) {
      for (int v = 0; v < plane_width(K, p); ++v) _mm_prefetch(reinterpret_cast<const char*>(blocks[p] + 64 * v + kAhead), _MM_HINT_T0);
    }
    for (int p = 0; p < plane_count(K); ++p) blocks[p] += 64 * plane_width(K, p);
  }
  template <Output Out, class Emit>
  inline __attribute__((always_inline)) void emit(int half, const Tables& t, Emit& emitter) const {
    const uint8_t* at[3];
    for (int p = 0; p < plane_count(K); ++p) at[p] = blocks[p] + 32 * half;
    decode_half<K, Out>(at, t, emitter);
  }
};

// Of a trellis: its lines, and the line before them.
template <int K>
  requires(is_trellis(K))
struct Cursor<K> {
  static constexpr int kBits = bits_of(K);
  const uint8_t* blocks[3];
  Cursor(const Matrix& m, int64_t tile) { block_pointers(m, tile, 0, blocks); }
  void next() {
    for (int v = 0; v < kBits; ++v) _mm_prefetch(reinterpret_cast<const char*>(blocks[0] + 64 * v + kAhead), _MM_HINT_T0);
    blocks[1] = blocks[0] + 64 * (kBits - 1);
    blocks[0] += 64 * kBits;
  }
  template <Output Out, class Emit>
  inline __attribute__((always_inline)) void emit(int half, const Tables& t, Emit& emitter) const {
    const uint8_t* at[2] = {blocks[0] + 32 * half, blocks[1] + 32 * half};
    decode_trellis_half<kBits, Out>(at, t, emitter);
  }
};

}  // namespace kbit::avx2
