// The words of csrc/serial.h by pmovmskb, which takes one bit of 32 bytes at once. For the files of instruction sets that have AVX2.
#pragma once

#include <immintrin.h>

#include <utility>

#include "serial.h"

namespace kbit {

// The activations of a vector as 32 bytes, each where its bit goes: at bit 8·j + place stands input 4·step + j, once for every bit of its code.
template <int Width>
static inline __attribute__((always_inline)) __m256i by_place(const int8_t* x) {
  if constexpr (Width == 1) {  // bits 0 … 7 hold steps 0 1 4 5 2 3 6 7
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m128i first = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)), order);
    const __m128i second = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 16)), order);
    return _mm256_set_m128i(_mm_unpackhi_epi16(first, second), _mm_unpacklo_epi16(first, second));
  } else if constexpr (Width == 2) {
    const __m256i order = _mm256_setr_epi8(0, 0, 4, 4, 8, 8, 12, 12, 1, 1, 5, 5, 9, 9, 13, 13, 2, 2, 6, 6, 10, 10, 14, 14, 3, 3, 7, 7, 11, 11, 15, 15);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))), order);
  } else {
    const __m256i order = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 1, 1, 1, 1, 5, 5, 5, 5, 2, 2, 2, 2, 6, 6, 6, 6, 3, 3, 3, 3, 7, 7, 7, 7);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x))), order);
  }
}

// The activation bits that a word takes, at the first four places.
template <int Width, int Word>
static constexpr uint32_t serial_mask() {
  uint32_t mask = 0;
  for (int place = 0; place < 4; ++place) {
    const int source = serial_source(Width, Word, place % Width);
    if (source >= 0) mask |= 1u << (8 * place + source);
  }
  return mask;
}

template <int Width, int Word>
static inline __attribute__((always_inline)) uint32_t serial_word_x86(__m256i x) {
  const __m256i bits = _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(serial_mask<Width, Word>())));
  if constexpr (Word >= 6 + Width) return static_cast<uint32_t>(_mm256_movemask_epi8(bits));  // the sign is there already
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpgt_epi8(bits, _mm256_setzero_si256())));
}

template <int Width, class Put>
static inline __attribute__((always_inline)) void cut_plane_x86(int64_t kblocks, const int8_t* q, Put&& put) {
  for (int64_t vector = 0; vector < kblocks * Width; ++vector) {
    const __m256i x = by_place<Width>(q + vector * (kBlockInputs / Width));
    [&]<int... Word>(std::integer_sequence<int, Word...>) __attribute__((always_inline)) { (put(serial_word_x86<Width, Word>(x)), ...); }
    (std::make_integer_sequence<int, serial_words(Width)>());
  }
}

// put(word) for all words of one token, plane after plane.
template <int K, class Put>
static inline __attribute__((always_inline)) void cut_words_x86(const Matrix& m, const int8_t* q, Put&& put) {
  cut_plane_x86<plane_width(K, 0)>(m.kblocks, q, put);
  if constexpr (plane_count(K) > 1) cut_plane_x86<plane_width(K, 1)>(m.kblocks, q, put);
}

}  // namespace kbit
