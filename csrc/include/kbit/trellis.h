// Raw-pointer interface of the trellis encoder: weights in, steps of a trellis (csrc/trellis.h) and the scales of its groups out.
//
// A row loses Σ p·(w − s·v)² for the levels v along its path. Where the path is free, the Viterbi algorithm finds the least of all paths.
// Where errors are made up for (`trellis_compensate`), what a column aims at depends on the path behind it: each state then carries the errors
// of the one path that it keeps (per-survivor processing: Raheli, Polydoros, Tzou 1995).
//
// Float arithmetic is fp32, lane by lane in a fixed order: the result is the same on every machine and for any number of threads.
#pragma once

#include <cstdint>

#include "kbit/kbit.h"

namespace kbit {

// A trellis of `bits` bits a step; `levels` has kTrellisLevels entries.
struct TrellisCode {
  int bits;
  const float* levels;
};

// Rows [rows, cols] of fp32 and what their errors weigh: null, [cols], or [rows, cols] with importance_stride = cols.
struct TrellisRows {
  const float* weights;
  const float* importance;
  int64_t importance_stride;
  int64_t rows, cols;
  int64_t group_size;  // resolved, 1 … cols
};

// Which scales are tried: `parts` [count] of the one that gives the levels the spread of the weights; the best is fitted to its path by least
// squares up to `refits` times.
struct TrellisTrials {
  const float* parts;
  int64_t count;
  int refits;
};

// Scale of each group with the least error of those tried, from whatever state: `stored` [rows, groups] are bits of fp16 or e4m3 (dq8 is an
// invalid_argument), `value` [rows, groups] what they mean, `super_scale` included.
Status trellis_scales(const TrellisCode& code, const TrellisRows& rows, const TrellisTrials& trials, ScaleKind kind, float super_scale,
                      uint16_t* stored, float* value, int threads);

// Steps [rows, cols] of the best path of each row from state 0, for the scales `value` [rows, groups].
Status trellis_path(const TrellisCode& code, const TrellisRows& rows, const float* value, uint8_t* steps, int threads);

// Columns of a matrix whose errors are made up for: those of one block.
struct TrellisBlock {
  const float* weights;   // [rows, cols]
  const float* carried;   // [rows, cols]: Σ error · R of the columns before the block
  const float* factor;    // R [cols, cols] upper triangular, of the block
  const float* scale;     // [rows, cols]: scale of each weight's group
  int64_t rows, cols;
  int64_t keep;           // columns that are decided; those after them only look ahead
};

// Least Σ_j (e_j R_jj + carried_j + Σ_{i<j} e_i R_ij)² found over the paths from `state` [rows], which becomes the state after `keep` columns.
// Paths that cost far more than the best one are given up: about a quarter of the states keep theirs, with four bits an eighth.
// `steps` and `error` are [rows, cols]; columns from `keep` on are those of the path that was found as well.
Status trellis_compensate(const TrellisCode& code, const TrellisBlock& block, uint16_t* state, uint8_t* steps, float* error, int threads);

}  // namespace kbit
