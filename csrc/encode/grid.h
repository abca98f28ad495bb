// Nearest level of a grid: code(t) = number of midpoints below t.
//
// Up to 16 levels, all midpoints are compared at once, lanes side by side. Beyond, the upper 16 bits of t (sign, exponent
// and 7 bits of mantissa) index a table of the lowest code of their bucket, and the few midpoints inside it are compared.
// Both count exactly, whatever the levels.
#pragma once

#include <vector>

#include "clones.h"
#include "kbit/encode.h"

namespace kbit::encode_detail {

class Grid {
 public:
  Grid(const float* levels, int n_levels);

  void codes(const float* t, int64_t count, uint8_t* out) const;   // count: a multiple of kSpanAlign
  void values(const float* t, int64_t count, float* out) const;    // the nearest levels themselves
  bool antisymmetric() const;                                      // a scale and its negative do the same

 private:
  void build_buckets();

  int n_levels_;
  int bucket_steps_ = 0;      // most midpoints inside one bucket
  float level_[256];          // repeats the last level
  float middle_[256];         // Inf from n_levels - 1 on
  std::vector<uint8_t> first_code_;
};

}  // namespace kbit::encode_detail
