// The pieces of the NEON table, one file each.
#pragma once

#include "kernels.h"

namespace kbit::neon {

void quantize(const Matrix& m, const float* x, int8_t* q, float* scale, int32_t* sum);
void fast(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
void integer(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
void serial(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
void exact(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
// Fast mode of a joint codebook.
void joint(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
// Tiles [begin, end) of signed bytes q − 128, decoded one after another in `strip`.
void multiply_decoded(const Matrix& m, const Activations& x, int64_t tokens, const uint8_t* strip, int64_t begin, int64_t end, float* y, int64_t y_stride);
uint64_t read(const uint8_t* data, int64_t bytes);
int64_t dot_products(int64_t rounds);

}  // namespace kbit::neon
