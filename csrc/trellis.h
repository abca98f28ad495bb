// Trellis codes: a row is one stream of steps of `bits` bits, and a weight's level follows from the last bits of the stream up to its own.
//
//   window = the 16 bits of the stream that end with the step of the weight, its last bit lowest; zeros before the row's beginning
//   index  = bits 8 … 13 of window · multiplier mod 2^16, one of 64 levels
//
// The multiplier is 2^(14 − L) times an odd number, so that the index depends on the last L bits alone: they are the state of a shift
// register, and its product is the hash that makes of 2^L states a code whose branches lie well apart (Marcellin and Fischer, "Trellis coded
// quantization", 1990; Tseng, Sun, Hou, De Sa: "QTIP", 2024, for the shift register with computed values).
//
// Layout: a k-block of a tile is `bits` lines of 64 bytes, one 32-bit word for each of 16 rows; a row's words one after another are its
// stream, the highest bit of a word first. It takes the bytes that planes of `bits` bits take.
#pragma once

#include <cstdint>
#include <cstring>

#include "kbit/kbit.h"

namespace kbit {

static constexpr uint16_t trellis_multiplier(int bits) {
  constexpr uint16_t multipliers[kTrellisBits + 1] = {0, 467 << 4, 239 << 4, 135 << 4, 61 << 4};
  return multipliers[bits];
}

// Bits L of the state.
static constexpr int trellis_state_bits(int bits) {
  int free = 0;
  while (((trellis_multiplier(bits) >> free) & 1) == 0) ++free;
  return 14 - free;
}

static constexpr unsigned trellis_index(uint32_t window, int bits) { return (window * trellis_multiplier(bits) >> 8) & (kTrellisLevels - 1); }

// Steps of four inputs whose windows lie in 32 bits of the stream: 16 bits and those of all inputs but the first.
static constexpr int trellis_steps_of_word(int bits) { return bits == 1 ? 4 : bits == 2 ? 2 : 1; }

alignas(64) static constexpr uint8_t kZeroLine[64] = {};

// First line of the k-block (tile, kblock), and the line before it.
static inline const uint8_t* trellis_lines(const Matrix& m, int64_t tile, int64_t kblock, const uint8_t** before) {
  const uint8_t* lines = m.planes + (tile * m.kblocks + kblock) * 64 * m.bits;
  *before = kblock > 0 ? lines - 64 : kZeroLine;
  return lines;
}

// Index of the level of (row, input): row of the tile, input of the row.
static inline unsigned trellis_index_at(const Matrix& m, int64_t tile, int row, int64_t input) {
  const uint8_t* before;
  const uint8_t* lines = trellis_lines(m, tile, input / kBlockInputs, &before);
  const int end = m.bits * (static_cast<int>(input % kBlockInputs) + 1), line = (end - 1) / 32;
  uint32_t present, previous;
  std::memcpy(&present, lines + 64 * line + 4 * row, 4);
  std::memcpy(&previous, (line > 0 ? lines + 64 * (line - 1) : before) + 4 * row, 4);
  const uint64_t stream = static_cast<uint64_t>(previous) << 32 | present;
  return trellis_index(static_cast<uint32_t>(stream >> (32 * (line + 1) - end)) & 0xffffu, m.bits);
}

}  // namespace kbit
