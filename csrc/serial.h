// Activations cut into bits, for serial kernels: the dot of a plane's codes is the sum over their bits i and the activations' bits j of
// 2^(i + j) · popcount(w_i AND x_j), exactly.
//
// A row's bits in a plane's vector are one 32-bit lane, so activations are cut into words of 32 bits in the order of a lane: those of code bit i
// stand where bit i of their codes does. A word with activation bit t − i at the places of code bit i counts 2^t for all i at once, which saves
// most of the words that pairs of bits would take. Bit 7 of an activation is its sign, −2^7. Words for a vector of a plane of width w:
//
//   t = 0 … 5 + w   at code bit i activation bit t − i, where that is 0 … 6   counting 2^t
//   s = 0 … w − 1   at code bit s activation bit 7, nothing elsewhere         counting −2^(7 + s)
#pragma once

#include "kbit/kbit.h"
#include "layout.h"

namespace kbit {

constexpr int kSerialBits = 4;  // codes up to which there are serial kernels

static constexpr int serial_words(int width) { return 6 + 2 * width; }

// What a bit of a word counts.
static constexpr int serial_weight(int width, int word) { return word < 6 + width ? 1 << word : -(1 << (word + 1 - width)); }

// The activation bit that a word has at code bit `bit`; −1 for none.
static constexpr int serial_source(int width, int word, int bit) {
  if (word >= 6 + width) return word - 6 - width == bit ? 7 : -1;
  return word >= bit && word - bit <= 6 ? word - bit : -1;
}

// Words that stand for a k-block of a plane: its vectors' one after another.
static constexpr int serial_block_words(int width) { return width * serial_words(width); }

// Where a token's words of plane `plane` begin, and, for the number of planes, how many there are.
static constexpr int64_t serial_offset(const Matrix& m, int plane) {
  int64_t words = 0;
  for (int p = 0; p < plane; ++p) words += m.kblocks * serial_block_words(plane_width(m.bits, p));
  return words;
}

// One word: `x` are the activations of the vector, 32 / width of them.
static inline uint32_t serial_word(const int8_t* x, int width, int word) {
  uint32_t out = 0;
  for (int input = 0; input < 32 / width; ++input) {
    const int step = input / 4, place = width == 1 ? single_bit_position(step) : step * width;
    for (int bit = 0; bit < width; ++bit) {
      const int source = serial_source(width, word, bit);
      if (source >= 0) out |= (static_cast<uint32_t>(x[input]) >> source & 1u) << (8 * (input % 4) + place + bit);
    }
  }
  return out;
}

// put(word) for all words of one token, plane after plane; q [kblocks · 32]. x86 has its own way to the same words (csrc/serial_x86.h).
template <class Put>
static inline void cut_words(const Matrix& m, const int8_t* q, Put&& put) {
  for (int plane = 0; plane < plane_count(m.bits); ++plane) {
    const int width = plane_width(m.bits, plane);
    for (int64_t vector = 0; vector < m.kblocks * width; ++vector) {
      for (int word = 0; word < serial_words(width); ++word) put(serial_word(q + vector * (kBlockInputs / width), width, word));
    }
  }
}

}  // namespace kbit
