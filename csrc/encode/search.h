// Scale of one group with the least squared error Σ p·(w - s·v)², v the nearest level (minus the zero point) for scale s.
//
// With A = Σ p·w·v and B = Σ p·v², the error is Σ p·w² - gain, gain = s·(2A - s·B); the largest gain wins, the first of equals.
// Tried in order: the absmax scale; it times each multiplier; the same negated, unless the grid is antisymmetric; with zero
// points, instead, the same for the zero point one below and one above. Then up to four least-squares refits s = A / B of the
// best, each kept only if it gains. Every candidate is first rounded to its stored form, so the result is never worse than absmax.
//
// Sums are float64 in 8 lanes (element j in lane j mod 8, ascending), joined as ((0+4)+(1+5)) + ((2+6)+(3+7)).
#pragma once

#include "grid.h"
#include "scale.h"

namespace kbit::encode_detail {

struct GroupScale {
  StoredScale scale;
  int zero_point = 0;
};

struct GroupView {
  const float* weights;            // padded with 0
  const double* importance;        // p; padded with 0
  const double* weighted;          // p·w
  int64_t count;                   // padded
  float* scratch;                  // count floats
  float* values;                   // count floats
};

struct SearchSpace {
  const Grid& grid;
  ScaleCodec codec;
  bool negate;
  int largest_zero_point;          // 0: no zero points
};

// `absmax`: the scale before rounding; `start`: the same stored, with its zero point.
GroupScale search_scale(const GroupView& group, const SearchSpace& space, float absmax, GroupScale start);

}  // namespace kbit::encode_detail
