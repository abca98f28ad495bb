// The pieces of the scalar table that have a file of their own.
#pragma once

#include "kernels.h"

namespace kbit::scalar {

void integer(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
void serial(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
// Both modes for a joint codebook.
void joint(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
void joint_exact(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end);

}  // namespace kbit::scalar
