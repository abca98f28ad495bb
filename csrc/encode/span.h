// A span: consecutive weights of one row as fp32, padded to a multiple of kSpanAlign.
#pragma once

#include "clones.h"
#include "kbit/encode.h"

namespace kbit::encode_detail {

constexpr int64_t padded(int64_t count) { return ceil_div(count, kSpanAlign) * kSpanAlign; }

// Weights [col, col + count) of `row` into out[0 … padded(count)); the padding is 0.
void load_span(const Weights& weights, int64_t row, int64_t col, int64_t count, float* out);

// Smallest and largest value of a span and of 0; false if a value is NaN or Inf.
bool span_range(const float* span, int64_t count, float* low, float* high);

// t = w / scale + zero_point, or zero_point where scale is 0.
void divide_span(const float* span, int64_t count, float scale, float zero_point, float* out);

}  // namespace kbit::encode_detail
