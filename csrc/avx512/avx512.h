// The pieces of the AVX-512 table (F, BW, VL, DQ, VBMI, VNNI), one file each.
#pragma once

#include "kernels.h"

namespace kbit::avx512 {

void quantize(const Matrix& m, const float* x, int8_t* q, float* scale, int32_t* sum);
void fast(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
void lookup(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
void integer(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
void serial(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
void exact(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
// The same as fast, several tokens by the matrix tiles of AMX where groups allow it.
void tiled(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
// Fast mode of a joint codebook.
void joint(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch);
// Tiles [begin, end), decoded one after another in `strip`.
void multiply_decoded(const Matrix& m, const Activations& x, int64_t tokens, const uint8_t* strip, int64_t begin, int64_t end, float* y, int64_t y_stride);
uint64_t read(const uint8_t* data, int64_t bytes);
int64_t dot_products(int64_t rounds);

}  // namespace kbit::avx512
