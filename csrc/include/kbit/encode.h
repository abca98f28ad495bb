// Raw-pointer interface of the nearest-level encoder: weights in, packed planes and stored scales out.
//
// Arithmetic, the same to the bit in kbit.encoders.reference (numpy), on every machine and for any number of threads:
//   absmax      scale = extreme / anchor                (fp32; extreme: element of largest magnitude, the positive one of a tie)
//   stored      the scale rounded to its stored form; everything after uses the rounded value s
//   code        number of midpoints (level[i] + level[i+1]) / 2 below t = w / s + zero_point, all fp32; t = zero_point where s = 0
// so ties go to the lower code. A scale beyond the largest stored value saturates; one that underflows is stored as +0.
#pragma once

#include <cstdint>

#include "kbit/kbit.h"

namespace kbit {

enum class WeightType : int { fp32 = 0, fp16 = 1, bf16 = 2 };
enum class ScaleSearch : int { absmax = 0, mse = 1 };

struct Weights {
  const void* data;  // [rows, cols], row-major
  WeightType type;
  int64_t rows, cols;
};

struct EncodeTask {
  Weights weights;
  const float* importance;      // null, [cols], or [rows, cols] with importance_stride = cols; used by the mse search only
  int64_t importance_stride;
  const float* levels;          // ascending
  int n_levels;
  int bits;
  float anchor;                 // the level that the extreme element of a group maps to, not 0
  bool mirrored;                // both +anchor and -anchor are levels: scales are positive
  bool zero_points;             // levels are 0…n-1 and each group has a zero point
  int64_t group_size;           // resolved, 1…cols: cols for one scale a row
  ScaleSearch search;
  ScaleKind scale_kind;
  float matrix_super_scale;     // e4m3 only: given, since it covers rows that this task may not see

  uint8_t* planes;              // packed_bytes(rows, cols, bits)
  void* scale;                  // [tiles, groups, 16]
  float* tile_super_scale;      // dq8 only: [tiles], written
  uint8_t* zero_point;          // [tiles, groups, 16] or null
};

// Largest spread of a group: |extreme| or, with zero points, max(w, 0) - min(w, 0).
// not_finite sets `first_bad` to row · cols + col of the first NaN or Inf in row-major order; invalid_argument: group_size is not 1…cols.
Status scan(const Weights& weights, int64_t group_size, bool zero_points, int threads, double* spread, int64_t* first_bad);

// Fills the results of `task`; not_finite and invalid_argument as in `scan`, with the results then undefined.
Status encode(const EncodeTask& task, int threads, int64_t* first_bad);

}  // namespace kbit
