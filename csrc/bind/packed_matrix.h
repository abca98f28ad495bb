// PackedMatrix: a matrix in k bits over memory that Python owns. kbit.kernels.cpu hands over a checked tensor; that its parts have the sizes
// which kernels will read is seen to here.
#pragma once

#include <stdexcept>

#include "bind.h"
#include "kbit/kbit.h"

namespace kbit {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct PackedMatrix {
  Matrix matrix{};
  Bytes weight, scale, zero_point;
  Floats super_scale;

  PackedMatrix(int64_t rows, int64_t cols, int bits, int64_t group_size, int scale_kind, Bytes weight_, Bytes scale_, Floats super_scale_,
               Bytes zero_point_, Floats levels, int dims, int64_t rotation, bool trellis)
      : weight(weight_), scale(scale_), zero_point(zero_point_), super_scale(super_scale_) {
    matrix.rows = rows;
    matrix.cols = matrix.inputs = cols;
    matrix.dims = dims;
    matrix.bits = bits;
    matrix.group_size = group_size;
    matrix.rotation = rotation;
    matrix.scale_kind = static_cast<ScaleKind>(scale_kind);
    matrix.trellis = trellis;
    const auto values = static_cast<int64_t>(levels.shape(0));
    if (dims < 1 || (trellis && dims > 1) || values % dims != 0) throw std::invalid_argument("packed matrix: bad dims");
    const int n_levels = static_cast<int>(values / dims);
    const Status status = dims == 1 ? build(matrix, levels.data(), n_levels) : build_joint(matrix, levels.data(), n_levels);
    if (status != Status::ok) throw std::invalid_argument("packed matrix: bad shape or levels");
    const int64_t count = matrix.tiles * matrix.groups * kTileRows;
    const int64_t supers = matrix.scale_kind == ScaleKind::fp16 ? 0 : (matrix.scale_kind == ScaleKind::e4m3 ? 1 : matrix.tiles);
    if (static_cast<int64_t>(weight.shape(0)) != packed_bytes(rows, matrix.cols, bits) ||
        static_cast<int64_t>(scale.shape(0)) != count * (matrix.scale_kind == ScaleKind::fp16 ? 2 : 1) ||
        static_cast<int64_t>(super_scale.shape(0)) != supers ||
        (zero_point.shape(0) != 0 && static_cast<int64_t>(zero_point.shape(0)) != count)) {
      throw std::invalid_argument("packed matrix: parts do not fit the shape");
    }
    matrix.planes = weight.data();
    matrix.scale = scale.data();
    matrix.super_scale = super_scale.data();
    matrix.zero_point = zero_point.shape(0) == 0 ? nullptr : zero_point.data();
  }
};

}  // namespace kbit
