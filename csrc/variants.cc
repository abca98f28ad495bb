// The ways of fast mode from codes to integer dots. A group's dot is the same integer whichever way it is found, and the float operations
// after it are the same, so all give the same bytes; they differ in speed alone.
//
//   lookup    Σ table[code] · x: any codebook
//   integer   offset · Σ x + step · Σ code · x, codes multiplied where they lie, plane by plane: codebooks on a line
//   serial    the same sum from the codes' bits and the activations' bits by AND and popcount (csrc/serial.h): codebooks on a line, k ≤ 4
#include "variants.h"

#include "kernels.h"
#include "serial.h"

namespace kbit {
namespace {

// An instruction set takes the codes of an identity codebook as they are where that is faster; without the mark it looks them up.
void look_up(const Kernels& kernels, const Matrix& matrix, const Activations& x, int64_t m, float* y, int64_t y_stride, int64_t tile_begin,
             int64_t tile_end, uint8_t* scratch) {
  if (!matrix.integer.identity) return kernels.fast(matrix, x, m, y, y_stride, tile_begin, tile_end, scratch);
  Matrix unmarked = matrix;
  unmarked.integer.identity = false;
  kernels.fast(unmarked, x, m, y, y_stride, tile_begin, tile_end, scratch);
}

FastKernel kernel_of(const VariantKernels& variants, Variant variant) {
  switch (variant) {
    case Variant::automatic: return nullptr;
    case Variant::lookup: return variants.lookup;
    case Variant::integer: return variants.integer;
    case Variant::serial: return variants.serial;
  }
  return nullptr;
}

// Codes multiplied where they lie need groups of whole k-blocks.
bool straight(const Matrix& m) {
  CodeLine line;
  return m.dims == 1 && !m.trellis && m.activation_group % kBlockInputs == 0 && code_line(m, line);
}

}  // namespace

bool variant_possible(const Matrix& m, Variant variant) {
  switch (variant) {
    case Variant::automatic:
    case Variant::lookup: return true;
    case Variant::integer: return straight(m);
    case Variant::serial: return m.bits <= kSerialBits && straight(m);
  }
  return false;
}

Status select_variant(Matrix& m, int token_class, Variant variant) {
  if (token_class < 0 || token_class >= kTokenClasses || !variant_possible(m, variant)) return Status::invalid_argument;
  m.variant[token_class] = variant;
  return Status::ok;
}

void run_fast(const Kernels& kernels, const Matrix& matrix, const Activations& x, int64_t m, float* y, int64_t y_stride, int64_t tile_begin,
              int64_t tile_end, uint8_t* scratch) {
  if (matrix.dims > 1) return kernels.fast(matrix, x, m, y, y_stride, tile_begin, tile_end, scratch);
  const Variant variant = m > kFewTokens || matrix.trellis ? Variant::automatic : matrix.variant[m > 1 ? 1 : 0];
  if (const FastKernel named = kernel_of(*kernels.variants, variant)) return named(matrix, x, m, y, y_stride, tile_begin, tile_end, scratch);
  if (variant == Variant::lookup) return look_up(kernels, matrix, x, m, y, y_stride, tile_begin, tile_end, scratch);
  kernels.fast(matrix, x, m, y, y_stride, tile_begin, tile_end, scratch);
}

}  // namespace kbit
