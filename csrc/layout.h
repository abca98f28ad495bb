// Where a code lies in the planes (ARCHITECTURE.md, "Layout of a packed matrix").
//
// Functions are static here, in half.h, kernels.h and kbit.h: files are compiled for different instruction sets, and the linker may keep any
// one copy of a function with external linkage, so that an older processor would meet instructions that it lacks.
#pragma once

#include <cstdint>

#include "kbit/kbit.h"
#include "trellis.h"

namespace kbit {

// Bit, within the byte of a width-1 plane, of the four inputs 4·step … 4·step + 3 of a k-block.
static constexpr int single_bit_position(int step) { return (step & 1) + 2 * (step >> 2 & 1) + 4 * (step >> 1 & 1); }

// First byte of the plane `index` of a matrix.
static constexpr int64_t plane_offset(int64_t tiles, int64_t kblocks, int bits, int index) {
  int64_t offset = 0;
  for (int p = 0; p < index; ++p) offset += tiles * kblocks * 64 * plane_width(bits, p);
  return offset;
}

struct Place {
  int64_t byte;  // from the start of the plane's k-block
  int shift;
};

// Place of (row of tile, input of k-block) in a k-block of a plane of width `width`.
static constexpr Place place_of(int width, int row, int input) {
  const int step = input / 4;
  const int fields = 8 / width;
  const int field = width == 1 ? single_bit_position(step) : step % fields;
  return {(step / fields) * 64 + row * 4 + input % 4, field * width};
}

// Code of (row, input); `blocks` points at the k-block of each plane.
static inline unsigned code_at(const uint8_t* const* blocks, int bits, int row, int input) {
  unsigned code = 0;
  for (int p = 0; p < plane_count(bits); ++p) {
    const int width = plane_width(bits, p);
    const Place place = place_of(width, row, input);
    code = code << width | (static_cast<unsigned>(blocks[p][place.byte] >> place.shift) & ((1u << width) - 1u));
  }
  return code;
}

// Start of the k-block (tile, kblock) in each plane; of a trellis its lines and the line before them.
static inline void block_pointers(const Matrix& m, int64_t tile, int64_t kblock, const uint8_t** blocks) {
  if (m.trellis) {
    blocks[0] = trellis_lines(m, tile, kblock, &blocks[1]);
    return;
  }
  for (int p = 0; p < plane_count(m.bits); ++p) {
    blocks[p] = m.planes + plane_offset(m.tiles, m.kblocks, m.bits, p) + (tile * m.kblocks + kblock) * 64 * plane_width(m.bits, p);
  }
}

// Index into the levels of the weight (row of tile, input of row).
static inline unsigned level_index(const Matrix& m, int64_t tile, int row, int64_t input) {
  if (m.trellis) return trellis_index_at(m, tile, row, input);
  const uint8_t* blocks[3];
  block_pointers(m, tile, input / kBlockInputs, blocks);
  return code_at(blocks, m.bits, row, static_cast<int>(input % kBlockInputs));
}

}  // namespace kbit
