// Internal: what one instruction set offers. dispatch.cc chooses a table at run time; matmul.cc calls it.
#pragma once

#include <cstdint>

#include "kbit/kbit.h"
#include "vector/vector_ops.h"

namespace kbit {

// Activations in int8: one scale and one integer sum for each activation group of each token.
// Layout: q [m, stride] with stride = kblocks·32·dims (padding is zero), scale and sum [m, groups]. For a joint codebook a k-block has 32
// bytes for each component: input dims·j + c of its 32·dims lies at 32·c + j.
struct Activations {
  const int8_t* q;
  const float* scale;
  const int32_t* sum;
  int64_t stride;
  int64_t groups;
};

// A group whose largest magnitude is below this counts as zero: 127 / largest would be infinite.
constexpr float kSmallestActivation = 0x1p-120f;

// y [m, rows], a token's row every `y_stride` floats, for the rows of tiles [begin, end). `scratch` holds scratch_bytes(matrix) bytes a thread.
using FastKernel = void (*)(const Matrix& matrix, const Activations& x, int64_t m, float* y, int64_t y_stride, int64_t tile_begin, int64_t tile_end,
                            uint8_t* scratch);

// Fast mode by name (csrc/variants.cc); null where an instruction set has no kernel of its own for it.
struct VariantKernels {
  FastKernel lookup, integer, serial;
};

struct Kernels {
  const char* name;
  // One token: x [cols] → q [stride], scale and sum [groups]. A group with NaN or Inf gets scale NaN and zeros. Joint codebooks take
  // `quantize_input`; `fast` and `exact` take both kinds.
  void (*quantize)(const Matrix& matrix, const float* x, int8_t* q, float* scale, int32_t* sum);
  FastKernel fast;
  void (*exact)(const Matrix& matrix, const float* x, int64_t m, float* y, int64_t y_stride, int64_t tile_begin, int64_t tile_end,
                uint8_t* scratch);
  // Roofs: sum of `bytes` (a multiple of 4096) read once; multiply-adds done in `rounds` of independent int8 dots on registers.
  uint64_t (*read)(const uint8_t* data, int64_t bytes);
  int64_t (*dot_products)(int64_t rounds);
  const VectorOps* vector;  // everything outside of packed matrices
  const VariantKernels* variants;
};

// Bytes of a token's int8 activations, and its activation groups.
static inline int64_t input_bytes(const Matrix& matrix) { return matrix.kblocks * kBlockInputs * matrix.dims; }
static inline int64_t input_groups(const Matrix& matrix) { return ceil_div(matrix.cols, matrix.activation_group); }

// csrc/joint.cc: one token of a matrix of either kind, x [inputs].
void quantize_input(const Kernels& kernels, const Matrix& matrix, const float* x, int8_t* q, float* scale, int32_t* sum);

// csrc/matrix.cc: the integer codebook that is best for ascending values, n ≤ 256, in whole bytes (depth 0); q[i] stands for values[i].
void fit_bytes(const float* values, int n, IntCodebook& book);

// A matrix with a joint codebook as its decoded tiles and its activations lie: one input a code, components one after another in each k-block.
Matrix flat(const Matrix& matrix);

// csrc/variants.cc: fast mode by the matrix's variant for so many tokens.
void run_fast(const Kernels& kernels, const Matrix& matrix, const Activations& x, int64_t m, float* y, int64_t y_stride, int64_t tile_begin,
              int64_t tile_end, uint8_t* scratch);

// Levels of decoded tiles, as bytes; bounded so that they stay in the second-level cache.
constexpr int64_t kScratchBytes = 512 * 1024;
static inline int64_t decoded_bytes(const Matrix& matrix) { return matrix.kblocks * kBlockInputs * matrix.dims * kTileRows; }  // of a tile
static inline int64_t tiles_per_strip(const Matrix& matrix) {
  const int64_t strip = decoded_bytes(matrix);
  return strip >= kScratchBytes ? 1 : kScratchBytes / strip;
}
// What a kernel may keep of some tokens' activation groups beside the tiles.
static inline int64_t term_bytes(const Matrix& matrix) { return 256 * matrix.kblocks; }
static inline int64_t kernel_scratch_bytes(const Matrix& matrix) {
  return term_bytes(matrix) + tiles_per_strip(matrix) * decoded_bytes(matrix);
}
// Tiles of a pruned matrix that are filled up at once.
constexpr int64_t kFilledBytes = 128 * 1024;
static inline int64_t filled_tiles(const Matrix& matrix) {
  if (matrix.parts == nullptr || matrix.parts->pruned.bits == 0) return 0;
  const int64_t tile = matrix.kblocks * kBlockInputs * kTileRows;
  return tile >= kFilledBytes ? 1 : kFilledBytes / tile;
}
static inline int64_t filled_bytes(const Matrix& matrix) { return filled_tiles(matrix) * matrix.kblocks * kBlockInputs * kTileRows; }
// Products of a residual level, of so many tokens at once, before they are added.
constexpr int64_t kResidualBytes = 256 * 1024;
constexpr int64_t kResidualTokens = 256;
// Everything that products of a matrix and its parts need. Turned inputs of outliers and products of a level are not needed at the same time.
static inline int64_t scratch_bytes(const Matrix& matrix) {
  const Parts* parts = matrix.parts;
  const int64_t turned = parts != nullptr && parts->outliers.count != 0 ? matrix.inputs * 64 : 0;
  const int64_t residual = parts != nullptr && parts->residual.count != 0 ? kResidualBytes : 0;
  return kernel_scratch_bytes(matrix) + filled_bytes(matrix) + (turned > residual ? turned : residual);
}

// Inputs of the parts beside the codes: fp32 rows, and V·x of the low rank (null without one).
struct PartInputs {
  const float* x;
  int64_t x_stride;
  const float* latent;
  int64_t latent_stride;
};

// csrc/parts.cc: a matrix with all of its parts, for the rows of tiles [begin, end).
void run_tiles_fast(const Kernels& kernels, const Matrix& matrix, const Activations& x, const PartInputs& inputs, int64_t tokens, float* y, int64_t y_stride,
                    int64_t tile_begin, int64_t tile_end, uint8_t* scratch);
void run_tiles_exact(const Kernels& kernels, const Matrix& matrix, const PartInputs& inputs, int64_t tokens, float* y, int64_t y_stride, int64_t tile_begin,
                     int64_t tile_end, uint8_t* scratch);
// Row `index` of a matrix with parts, in fp32.
void pruned_row(const Matrix& matrix, int64_t index, float* out);
void add_part_rows(const Matrix& matrix, int64_t index, float* out);

extern const Kernels scalar_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels amx_kernels;  // AVX-512 with matrix tiles for several tokens
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif

// csrc/dispatch.cc
const Kernels& active_kernels();
int available_kernels(const Kernels** out, int capacity);  // best first
bool select_kernels(const char* name);                     // "" chooses the best

}  // namespace kbit
