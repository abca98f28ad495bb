// One tile's codes [16, 32·kblocks] (uint8, row-major, padding 0) <-> its part of each plane.
//
// Codes are moved four at a time: byte r·4 + j of a vector holds inputs 4f + j, so a 32-bit word of four consecutive codes,
// cut to the plane's bits, shifts into its field of the word of row r.
#pragma once

#include <cstring>

#include "kbit/kbit.h"
#include "layout.h"

namespace kbit {

template <int kWidth>
constexpr int shift_of(int step) {
  return kWidth == 1 ? single_bit_position(step) : step * kWidth;
}

template <int kWidth>
inline uint32_t pack_word(const uint8_t* codes, int shift) {
  constexpr uint32_t mask = 0x01010101u * ((1u << kWidth) - 1u);
  uint32_t word = 0;
  for (int field = 0; field < 8 / kWidth; ++field) {
    uint32_t four;
    std::memcpy(&four, codes + 4 * field, 4);
    word |= ((four >> shift) & mask) << shift_of<kWidth>(field);
  }
  return word;
}

template <int kWidth>
inline void unpack_word(uint32_t word, int shift, uint8_t* codes) {
  constexpr uint32_t mask = 0x01010101u * ((1u << kWidth) - 1u);
  for (int field = 0; field < 8 / kWidth; ++field) {
    uint32_t four;
    std::memcpy(&four, codes + 4 * field, 4);
    four |= ((word >> shift_of<kWidth>(field)) & mask) << shift;
    std::memcpy(codes + 4 * field, &four, 4);
  }
}

template <int kWidth>
inline void pack_plane(const uint8_t* codes, int64_t kblocks, int shift, uint8_t* plane) {
  constexpr int kInputs = 32 / kWidth;  // of one vector
  for (int64_t kblock = 0; kblock < kblocks; ++kblock)
    for (int vector = 0; vector < kWidth; ++vector)
      for (int row = 0; row < kTileRows; ++row, plane += 4) {
        const uint32_t word = pack_word<kWidth>(codes + (row * kblocks + kblock) * kBlockInputs + vector * kInputs, shift);
        std::memcpy(plane, &word, 4);
      }
}

template <int kWidth>
inline void unpack_plane(const uint8_t* plane, int64_t kblocks, int shift, uint8_t* codes) {
  constexpr int kInputs = 32 / kWidth;
  for (int64_t kblock = 0; kblock < kblocks; ++kblock)
    for (int vector = 0; vector < kWidth; ++vector)
      for (int row = 0; row < kTileRows; ++row, plane += 4) {
        uint32_t word;
        std::memcpy(&word, plane, 4);
        unpack_word<kWidth>(word, shift, codes + (row * kblocks + kblock) * kBlockInputs + vector * kInputs);
      }
}

// Calls visit(plane's offset of tile `tile`, width, shift of the plane's bits in a code) for each plane.
template <class Visit>
inline void for_each_plane(int bits, int64_t tiles, int64_t kblocks, int64_t tile, Visit&& visit) {
  int64_t begin = 0;
  int shift = bits;
  for (int index = 0; index < plane_count(bits); ++index) {
    const int width = plane_width(bits, index);
    shift -= width;
    visit(begin + tile * kblocks * 64 * width, width, shift);
    begin += tiles * kblocks * 64 * width;
  }
}

inline void pack_tile(const uint8_t* codes, int bits, int64_t tiles, int64_t kblocks, int64_t tile, uint8_t* planes) {
  for_each_plane(bits, tiles, kblocks, tile, [&](int64_t offset, int width, int shift) {
    if (width == 1) pack_plane<1>(codes, kblocks, shift, planes + offset);
    if (width == 2) pack_plane<2>(codes, kblocks, shift, planes + offset);
    if (width == 4) pack_plane<4>(codes, kblocks, shift, planes + offset);
    if (width == 8) pack_plane<8>(codes, kblocks, shift, planes + offset);
  });
}

inline void unpack_tile(const uint8_t* planes, int bits, int64_t tiles, int64_t kblocks, int64_t tile, uint8_t* codes) {
  std::memset(codes, 0, static_cast<size_t>(kTileRows * kblocks * kBlockInputs));
  for_each_plane(bits, tiles, kblocks, tile, [&](int64_t offset, int width, int shift) {
    if (width == 1) unpack_plane<1>(planes + offset, kblocks, shift, codes);
    if (width == 2) unpack_plane<2>(planes + offset, kblocks, shift, codes);
    if (width == 4) unpack_plane<4>(planes + offset, kblocks, shift, codes);
    if (width == 8) unpack_plane<8>(planes + offset, kblocks, shift, codes);
  });
}

}  // namespace kbit
