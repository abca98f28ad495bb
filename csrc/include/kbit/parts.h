// What a matrix may hold beside its packed codes: y = W_q·x + Σ W_residual·x + S·x + U·(V·x), and packed codes of some of its weights only.
//
// How each lies in a file: FORMAT.md. All arithmetic is fp32 in a fixed order, in both modes: a row's columns in 16 bits first, then its low
// rank, then its outliers, each product fused with the sum; that sum is added to the packed product. Of a rotated matrix all of it is of the
// rotated inputs. Residual levels are packed products of their own, which are added to the first one by one before anything else is.
#pragma once

#include <cstdint>

namespace kbit {

struct Matrix;

constexpr int kCellInputs = 16;  // columns of a cell of outliers

// Weights in fp16 at any place. A cell is a tile's 16 rows × 16 columns; a place in it is 16 · column + row, ascending.
struct Outliers {
  int64_t count;           // 0: none
  int64_t cells;           // of a tile
  const uint8_t* counts;   // [tiles, cells]
  const uint8_t* places;   // [count]
  const uint16_t* values;  // [count]
  const int64_t* starts;   // [tiles + 1], sums of the counts
};

// Whole columns in fp16.
struct Columns {
  int64_t count;           // 0: none
  const int32_t* index;    // [count], ascending
  const uint16_t* values;  // [tiles, count, 16]
};

// U·diag(scale)·V in int8.
struct LowRank {
  int64_t rank;         // 0: none
  const int8_t* left;   // U [tiles, rank, 16]
  const int8_t* right;  // V [rank, inputs]
  const float* scale;   // [rank]
};

// Codes of the weights that are kept, in the order of the mask's bits; a tile's begin at a byte. In memory they are filled up to codes of eight
// bits, in which a level of 0 stands for the others: codes at or beyond `inserted` are one higher there where the grid has no such level.
struct Pruned {
  int bits;              // of a stored code; 0: nothing is pruned
  const uint8_t* mask;   // [tiles, kblocks, 8] of 64 bits: bit 4·row + j is input 4·step + j of the k-block
  const uint8_t* codes;
  int64_t bytes;         // of all codes
  int64_t tile_bytes;    // of a tile's, but for the last
  int inserted;          // 256: the grid has a level of 0
  uint8_t zero;          // code of 0 when filled up
};

// Codes for what the levels before them leave: matrices of the same shape, groups and grid, without parts or rotation of their own. They read
// the same activations.
struct Residual {
  int64_t count;               // 0: none
  const Matrix* const* levels; // [count]
};

struct Parts {
  Outliers outliers;
  Columns columns;
  LowRank low_rank;
  Pruned pruned;
  Residual residual;
  // Whether there is a sum beside the packed products.
  bool adds() const { return outliers.count != 0 || columns.count != 0 || low_rank.rank != 0; }
};

}  // namespace kbit
