// PackedMatrix: a matrix in k bits over memory that Python owns. kbit.kernels.cpu hands over a checked tensor; that its parts have the sizes
// which kernels will read is seen to here.
#pragma once

#include <stdexcept>
#include <vector>

#include "bind.h"
#include "kbit/kbit.h"

namespace kbit {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// What says which weights of a pruned matrix have codes.
struct MaskArgs {
  Bytes mask;          // empty: all have
  int bits;            // of a stored code
  int64_t tile_bytes;
  int inserted, zero;
};

struct PackedMatrix {
  Matrix matrix{};
  Parts parts{};
  Bytes weight, scale, zero_point;
  Floats super_scale;
  std::vector<Bytes> held;  // arrays of the parts
  std::vector<int64_t> starts;
  std::vector<nb::object> level_objects;
  std::vector<const Matrix*> levels;

  PackedMatrix(const PackedMatrix&) = delete;  // the matrix points into it
  PackedMatrix& operator=(const PackedMatrix&) = delete;

  PackedMatrix(int64_t rows, int64_t cols, int bits, int64_t group_size, int scale_kind, Bytes weight_, Bytes scale_, Floats super_scale_,
               Bytes zero_point_, Floats levels, int dims, int64_t rotation, bool trellis, const MaskArgs& pruned = {})
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
    if (pruned.bits != 0 && (bits != 8 || dims != 1 || trellis || zero_point.shape(0) != 0 || pruned.bits > 8 || pruned.tile_bytes < 1 ||
                             pruned.zero >= matrix.n_levels || static_cast<int64_t>(pruned.mask.shape(0)) != packed_bytes(rows, cols, 1) ||
                             static_cast<int64_t>(weight.shape(0)) <= (matrix.tiles - 1) * pruned.tile_bytes)) {
      throw std::invalid_argument("pruned matrix: mask or codes do not fit the shape");
    }
    if ((pruned.bits == 0 && static_cast<int64_t>(weight.shape(0)) != packed_bytes(rows, matrix.cols, bits)) ||
        static_cast<int64_t>(scale.shape(0)) != count * (matrix.scale_kind == ScaleKind::fp16 ? 2 : 1) ||
        static_cast<int64_t>(super_scale.shape(0)) != supers ||
        (zero_point.shape(0) != 0 && static_cast<int64_t>(zero_point.shape(0)) != count)) {
      throw std::invalid_argument("packed matrix: parts do not fit the shape");
    }
    if (pruned.bits != 0) {
      held.push_back(pruned.mask);
      parts.pruned = {pruned.bits, pruned.mask.data(), weight.data(), static_cast<int64_t>(weight.shape(0)), pruned.tile_bytes, pruned.inserted,
                      static_cast<uint8_t>(pruned.zero)};
      matrix.parts = &parts;
    }
    matrix.planes = pruned.bits != 0 ? nullptr : weight.data();
    matrix.scale = scale.data();
    matrix.super_scale = super_scale.data();
    matrix.zero_point = zero_point.shape(0) == 0 ? nullptr : zero_point.data();
  }

  void set_outliers(Bytes counts, Bytes places, Bytes values) {
    const int64_t cells = ceil_div(matrix.inputs, kCellInputs), count = static_cast<int64_t>(places.shape(0));
    if (static_cast<int64_t>(counts.shape(0)) != matrix.tiles * cells || static_cast<int64_t>(values.shape(0)) != 2 * count) refuse();
    starts.assign(1, 0);
    for (int64_t tile = 0; tile < matrix.tiles; ++tile) {
      int64_t sum = starts.back();
      for (int64_t cell = 0; cell < cells; ++cell) sum += counts.data()[tile * cells + cell];
      starts.push_back(sum);
    }
    const int64_t last_rows = matrix.rows - (matrix.tiles - 1) * kTileRows, last_cols = matrix.inputs - (cells - 1) * kCellInputs;
    if (starts.back() != count) refuse();
    for (int64_t at = 0, cell = 0, left = count == 0 ? 0 : counts.data()[0]; at < count; ++at, --left) {
      while (left == 0) left = counts.data()[++cell];
      const int place = places.data()[at];
      if ((cell % cells == cells - 1 && place / 16 >= last_cols) || (cell / cells == matrix.tiles - 1 && place % 16 >= last_rows)) refuse();
    }
    parts.outliers = {count, cells, counts.data(), places.data(), reinterpret_cast<const uint16_t*>(values.data()), starts.data()};
    hold({counts, places, values});
  }

  void set_columns(Bytes index, Bytes values) {
    const auto* columns = reinterpret_cast<const int32_t*>(index.data());
    const int64_t count = static_cast<int64_t>(index.shape(0)) / 4;
    if (static_cast<int64_t>(index.shape(0)) != 4 * count || static_cast<int64_t>(values.shape(0)) != matrix.tiles * count * kTileRows * 2) refuse();
    for (int64_t i = 0; i < count; ++i) {
      if (columns[i] < 0 || columns[i] >= matrix.inputs) refuse();
    }
    parts.columns = {count, columns, reinterpret_cast<const uint16_t*>(values.data())};
    hold({index, values});
  }

  void set_low_rank(Bytes left, Bytes right, Bytes scale) {
    const int64_t rank = static_cast<int64_t>(scale.shape(0)) / 4;
    if (static_cast<int64_t>(scale.shape(0)) != 4 * rank || static_cast<int64_t>(left.shape(0)) != matrix.tiles * rank * kTileRows ||
        static_cast<int64_t>(right.shape(0)) != rank * matrix.inputs) {
      refuse();
    }
    parts.low_rank = {rank, reinterpret_cast<const int8_t*>(left.data()), reinterpret_cast<const int8_t*>(right.data()),
                      reinterpret_cast<const float*>(scale.data())};
    hold({left, right, scale});
  }

  void set_residual(nb::list matrices) {
    for (nb::handle one : matrices) {
      const Matrix& level = nb::cast<const PackedMatrix&>(one).matrix;
      if (level.rows != matrix.rows || level.inputs != matrix.inputs || level.group_size != matrix.group_size || level.dims != 1 ||
          matrix.dims != 1 || level.rotation != 0 || level.parts != nullptr) {
        refuse();
      }
      level_objects.push_back(nb::borrow(one));
      levels.push_back(&level);
    }
    parts.residual = {static_cast<int64_t>(levels.size()), levels.data()};
    matrix.parts = &parts;
  }

 private:
  [[noreturn]] static void refuse() { throw std::invalid_argument("packed matrix: a part beside the codes does not fit the shape"); }
  void hold(std::initializer_list<Bytes> arrays) {
    held.insert(held.end(), arrays);
    matrix.parts = &parts;
  }
};

}  // namespace kbit
