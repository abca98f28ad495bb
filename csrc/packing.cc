// Codes <-> planes for whole matrices, a tile at a time through a buffer that stays in cache.
#include <algorithm>
#include <atomic>
#include <vector>

#include "guarded_for.h"
#include "tile_codes.h"

namespace kbit {
namespace {

struct Shape {
  int64_t rows, cols;
  int64_t tiles = ceil_div(rows, kTileRows);
  int64_t kblocks = ceil_div(cols, kBlockInputs);
  int64_t padded = kblocks * kBlockInputs;
  size_t tile_codes() const { return static_cast<size_t>(kTileRows * padded); }
};

// Padding must be 0 too, so that a matrix has one packed form.
bool tile_is_valid(const uint8_t* codes, const Shape& shape, int64_t rows, int n_levels) {
  uint8_t largest = 0, padding = 0;
  for (int64_t row = 0; row < kTileRows; ++row) {
    const uint8_t* line = codes + row * shape.padded;
    const int64_t used = row < rows ? shape.cols : 0;
    for (int64_t col = 0; col < used; ++col) largest = std::max(largest, line[col]);
    for (int64_t col = used; col < shape.padded; ++col) padding |= line[col];
  }
  return largest < n_levels && padding == 0;
}

}  // namespace

void pack(const uint8_t* codes, int64_t rows, int64_t cols, int bits, uint8_t* planes, int threads) {
  const Shape shape{rows, cols};
  guarded_for(shape.tiles, threads, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> buffer(shape.tile_codes());
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * kTileRows, count = std::min<int64_t>(kTileRows, rows - first);
      if (count < kTileRows) std::fill(buffer.begin(), buffer.end(), uint8_t{0});
      for (int64_t row = 0; row < count; ++row)
        std::memcpy(buffer.data() + row * shape.padded, codes + (first + row) * cols, static_cast<size_t>(cols));
      pack_tile(buffer.data(), bits, shape.tiles, shape.kblocks, tile, planes);
    }
  });
}

void unpack(const uint8_t* planes, int64_t rows, int64_t cols, int bits, int64_t row_begin, int64_t row_end, uint8_t* codes, int threads) {
  const Shape shape{rows, cols};
  const int64_t first_tile = row_begin / kTileRows;
  guarded_for(ceil_div(row_end, kTileRows) - first_tile, threads, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> buffer(shape.tile_codes());
    for (int64_t tile = first_tile + begin; tile < first_tile + end; ++tile) {
      unpack_tile(planes, bits, shape.tiles, shape.kblocks, tile, buffer.data());
      const int64_t from = std::max(row_begin, tile * kTileRows), to = std::min(row_end, (tile + 1) * kTileRows);
      for (int64_t row = from; row < to; ++row)
        std::memcpy(codes + (row - row_begin) * cols, buffer.data() + (row - tile * kTileRows) * shape.padded, static_cast<size_t>(cols));
    }
  });
}

Status check_codes(const uint8_t* planes, int64_t rows, int64_t cols, int bits, int n_levels, int threads) {
  const Shape shape{rows, cols};
  if (n_levels >= 1 << bits && rows % kTileRows == 0 && cols % kBlockInputs == 0) return Status::ok;  // every byte is a code
  std::atomic<bool> valid{true};
  guarded_for(shape.tiles, threads, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> buffer(shape.tile_codes());
    for (int64_t tile = begin; tile < end && valid.load(std::memory_order_relaxed); ++tile) {
      unpack_tile(planes, bits, shape.tiles, shape.kblocks, tile, buffer.data());
      if (!tile_is_valid(buffer.data(), shape, rows - tile * kTileRows, n_levels)) valid.store(false, std::memory_order_relaxed);
    }
  });
  return valid.load() ? Status::ok : Status::code_out_of_range;
}

}  // namespace kbit
