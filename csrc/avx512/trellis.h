// From the lines of a trellis (csrc/trellis.h) to bytes: windows of 16 bits, four in each quadword by vpmultishiftqb, times the multiplier by
// vpmullw, which leaves the index of the level in the high byte for vpermb.
#pragma once

#include <cstdint>

#include "avx512/tables.h"
#include "layout.h"

namespace kbit::avx512 {

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

}  // namespace kbit::avx512
