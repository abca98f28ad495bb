// Raw-pointer interface of kbit's kernels. Knows neither Python nor torch; throws nothing.
//
// Layout of planes, tiles and scales: ARCHITECTURE.md, "Layout of a packed matrix".
#pragma once

#include <cstdint>

#include "kbit/parts.h"

namespace kbit {

constexpr int kTileRows = 16;    // rows of a tile
constexpr int kBlockInputs = 32; // inputs of a k-block

enum class Status : int { ok = 0, invalid_argument = 1, code_out_of_range = 2, not_finite = 3 };

enum class ScaleKind : int { fp16 = 0, e4m3 = 1, dq8 = 2 };

// level[code] ≈ base + step · (q[code] − centre); exact for integer-spaced grids.
// `depth` says how many AVX2 maddubs results fit into 16 bits: 8 (q ≤ 15), 4 (≤ 31), 2 (≤ 64), 1 (≤ 128);
// 0: q spans 0…255 and kernels use q − 128 as a signed byte.
struct IntCodebook {
  uint8_t q[256];  // by code; joint: as `levels`
  float step;
  float base;      // what is left after the centre: at most half a step, 0 for grids symmetric about zero
  int centre;      // the integer nearest to level 0, subtracted exactly through the sum of the activations
  int depth;
  bool identity;  // q[code] == code: no lookup
};

// How fast mode turns codes into integer dots; the bytes of the result are the same. automatic: what the instruction set does by itself.
enum class Variant : int { automatic = 0, lookup = 1, integer = 2, serial = 3 };

// Numbers of tokens that a variant is chosen for: one, and up to kFewTokens; more run automatically.
constexpr int kTokenClasses = 2;
constexpr int kFewTokens = 4;

constexpr int kMostDims = 3;        // inputs that one code of a joint codebook may stand for
constexpr int kJointEntries = 64;   // entries that a joint codebook may have

// A packed matrix: pointers into memory that the caller keeps alive. `build` and `build_joint` fill the derived fields.
//
// A code stands for one input, or with a joint codebook for `dims` neighbouring ones: `cols`, `group_size` and `activation_group` count
// codes, so that planes, tiles and scales of both kinds lie alike.
struct Matrix {
  int64_t rows, cols;
  int dims;                  // inputs of a code
  int64_t inputs;            // of a row: cols where dims is 1, else up to dims · cols
  int64_t group_size;        // resolved: cols for one scale a row
  int64_t tiles, kblocks, groups;
  int64_t activation_group;  // inputs that share one int8 activation scale in fast mode
  int bits;
  int n_levels;
  ScaleKind scale_kind;
  const uint8_t* planes;
  const void* scale;            // [tiles, groups, 16] of uint16 (fp16), uint8 (e4m3) or int8 (dq8)
  const float* super_scale;     // e4m3: [1], dq8: [tiles], fp16: unused
  const uint8_t* zero_point;    // [tiles, groups, 16] or null
  float levels[256];            // ascending, entries past n_levels repeat the last; joint: component c of an entry at 64·c + entry
  IntCodebook integer;
  int64_t rotation = 0;  // block of the rotation that the inputs go through first (csrc/rotation.cc); 0: none
  Variant variant[kTokenClasses];  // automatic until `select_variant`
  bool trellis;                    // codes are the steps of a trellis (csrc/trellis.h): set before `build`
  const Parts* parts = nullptr;    // what there is beside the codes; of a pruned matrix `planes` is null and `bits` 8
};

static constexpr int plane_count(int bits) { return bits == 7 ? 3 : (bits == 3 || bits == 5 || bits == 6 ? 2 : 1); }
// Width of plane `index`, widest (most significant) first.
static constexpr int plane_width(int bits, int index) {
  constexpr int widths[9][3] = {{0, 0, 0}, {1, 0, 0}, {2, 0, 0}, {2, 1, 0}, {4, 0, 0}, {4, 1, 0}, {4, 2, 0}, {4, 2, 1}, {8, 0, 0}};
  return widths[bits][index];
}
static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static constexpr int64_t packed_bytes(int64_t rows, int64_t cols, int bits) {
  return ceil_div(rows, kTileRows) * ceil_div(cols, kBlockInputs) * 64 * bits;
}

// csrc/matrix.cc: fills tiles, kblocks, groups, activation_group, levels' padding and the integer codebook. group_size is -1 (one scale a
// row), a multiple of 16 up to cols, or cols; another one, like any size, rotation or number of levels out of range, is an invalid_argument.
Status build(Matrix& matrix, const float* levels, int n_levels);

// csrc/joint.cc: the same for a matrix of `inputs`, `dims` and a group_size that count inputs: -1, or a multiple of 32 · dims up to inputs.
// codebook [n_entries, dims]; permitted are 2 … 6 bits at 2 dims, 3 and 6 bits at 3 dims. Sets cols, and counts group_size in codes.
Status build_joint(Matrix& matrix, const float* codebook, int n_entries);

// csrc/variants.cc: what the matrix's codebook and planes permit, and the choice for a class of tokens (0: one, 1: a few).
// invalid_argument, with nothing changed, for a variant that is not permitted or a class that does not exist.
bool variant_possible(const Matrix& matrix, Variant variant);
Status select_variant(Matrix& matrix, int token_class, Variant variant);

// Levels of a trellis, whatever its bits; the states of csrc/trellis.h choose among them.
constexpr int kTrellisLevels = 64;
constexpr int kTrellisBits = 4;  // most bits a step

// csrc/packing.cc: codes [rows, cols] row-major uint8 <-> planes.
void pack(const uint8_t* codes, int64_t rows, int64_t cols, int bits, uint8_t* planes, int threads);
void unpack(const uint8_t* planes, int64_t rows, int64_t cols, int bits, int64_t row_begin, int64_t row_end, uint8_t* codes, int threads);
// code_out_of_range if any code is ≥ n_levels.
Status check_codes(const uint8_t* planes, int64_t rows, int64_t cols, int bits, int n_levels, int threads);

// csrc/dequantize.cc: fp32 rows `ids[0…count)` of the matrix, of inputs as they are before any rotation, into out [count, inputs].
void dequantize_rows(const Matrix& matrix, const int64_t* ids, int64_t count, float* out, int threads);

// csrc/rotation.cc: rows x [rows, cols] times Qᵀ, or times Q on the way back; out may be x. block as in `rotation_possible`.
bool rotation_possible(int64_t cols, int64_t block);
void rotate_rows(const float* x, int64_t rows, int64_t cols, int64_t block, float* out, int threads);
void restore_rows(const float* x, int64_t rows, int64_t cols, int64_t block, float* out, int threads);

// csrc/matmul.cc: y [m, rows] = x [m, inputs] · Wᵀ, row-major; x is contiguous, a row of y begins every `y_stride` ≥ rows floats.
void matmul_exact(const Matrix& matrix, const float* x, int64_t m, float* y, int64_t y_stride, int threads);
void matmul_fast(const Matrix& matrix, const float* x, int64_t m, float* y, int64_t y_stride, int threads);

}  // namespace kbit
