// Tiles and tokens one by one, straight from the planes, for codebooks on a line: activation groups, scales, and the float arithmetic after each
// group in the oracle's order. A plane is a matrix of its own, whose codes are worth 2^shift. How its dots are found is the business of an
// adder, made anew for each group and plane, so that integer and serial kernels are alike but for that:
//
//   Input           what it takes activations as: kEach of them for a k-block
//   add(p, x)       adds the k-block of a plane of `Width` bits, which lies at p
//   quarter<Q>()    Σ code · q_x of rows 4Q … 4Q + 3
//
// Groups are whole k-blocks.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kernels.h"
#include "layout.h"
#include "scales.h"
#include "unroll.h"
#include "variants.h"

namespace kbit::neon {
namespace {

// One token: its activations, those of plane p from starts[p] on; `offset` is how much a level is above what was multiplied.
template <class Input>
struct Token {
  const Input* input;
  int64_t starts[3];
  const float* scale;
  const int32_t* sum;
  int32_t offset;
};

template <int K, template <int> class Adder, class Input>
void multiply_tile(const Matrix& m, const CodeLine& line, const Token<Input>& token, int64_t groups, int64_t tile, float* y) {
  const uint8_t* planes[3];
  block_pointers(m, tile, 0, planes);
  Rows total = Rows::all(0.0f);
  const int64_t size = m.activation_group / kBlockInputs;
  for (int64_t a = 0; a < groups; ++a) {
    const int64_t begin = a * size, end = a + 1 == groups ? m.kblocks : begin + size;
    int32x4_t dot[4];
    unroll<4>([&]<int Q>() KBIT_INLINE { dot[Q] = vdupq_n_s32(0); });
    unroll<plane_count(K)>([&]<int P>() KBIT_INLINE {
      constexpr int width = plane_width(K, P);
      Adder<width> adder;
      for (int64_t block = begin; block < end; ++block) {
        adder.add(planes[P] + 64 * width * block, token.input + token.starts[P] + Adder<width>::kEach * block);
      }
      unroll<4>([&]<int Q>() KBIT_INLINE { dot[Q] = vmlaq_n_s32(dot[Q], adder.template quarter<Q>(), 1 << plane_shift(K, P)); });
    });
    const int64_t group = a * m.activation_group / m.group_size;
    const Rows scales = load_scales(m, tile, group), zeros = load_zeros(m, tile, group);
    const int32x4_t start = vdupq_n_s32((token.offset - m.integer.centre) * token.sum[a]);
    const float activation_sum = token.scale[a] * static_cast<float>(token.sum[a]);
    unroll<4>([&]<int Q>() KBIT_INLINE {
      // total + scale · (step·a·dot + (base − zero)·a·Σ q_x), fused as in the oracle
      const float32x4_t value = vcvtq_f32_s32(vmlaq_n_s32(start, dot[Q], line.step));
      const float32x4_t rest = vmulq_n_f32(vsubq_f32(vdupq_n_f32(m.integer.base), zeros.quarter[Q]), activation_sum);
      total.quarter[Q] = vfmaq_f32(total.quarter[Q], scales.quarter[Q], vfmaq_n_f32(rest, value, m.integer.step * token.scale[a]));
    });
  }
  store_rows(m, tile, y, total);
}

}  // namespace
}  // namespace kbit::neon
