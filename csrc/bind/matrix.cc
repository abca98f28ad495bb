// PackedMatrix: a matrix in k bits over memory that Python owns. kbit.kernels.cpu hands over a checked tensor; that its parts have the sizes
// which kernels will read is seen to here.
#include <stdexcept>

#include "bind.h"
#include "kbit/kbit.h"
#include "kbit/threads.h"

namespace kbit {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct PackedMatrix {
  Matrix matrix{};
  Bytes weight, scale, zero_point;
  Floats super_scale;

  PackedMatrix(int64_t rows, int64_t cols, int bits, int64_t group_size, int scale_kind, Bytes weight_, Bytes scale_, Floats super_scale_,
               Bytes zero_point_, Floats levels)
      : weight(weight_), scale(scale_), zero_point(zero_point_), super_scale(super_scale_) {
    matrix.rows = rows;
    matrix.cols = cols;
    matrix.bits = bits;
    matrix.group_size = group_size;
    matrix.scale_kind = static_cast<ScaleKind>(scale_kind);
    if (build(matrix, levels.data(), static_cast<int>(levels.shape(0))) != Status::ok) throw std::invalid_argument("packed matrix: bad shape or levels");
    const int64_t count = matrix.tiles * matrix.groups * kTileRows;
    const int64_t supers = matrix.scale_kind == ScaleKind::fp16 ? 0 : (matrix.scale_kind == ScaleKind::e4m3 ? 1 : matrix.tiles);
    if (static_cast<int64_t>(weight.shape(0)) != packed_bytes(rows, cols, bits) ||
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

}  // namespace

void bind_matrix(nb::module_& m) {
  nb::class_<PackedMatrix>(m, "PackedMatrix")
      .def(nb::init<int64_t, int64_t, int, int64_t, int, Bytes, Bytes, Floats, Bytes, Floats>(), nb::arg("rows"), nb::arg("cols"), nb::arg("bits"),
           nb::arg("group_size"), nb::arg("scale_kind"), nb::arg("weight"), nb::arg("scale"), nb::arg("super_scale"), nb::arg("zero_point"),
           nb::arg("levels"))
      // Addresses of contiguous fp32 memory: an ndarray argument costs microseconds, an integer nothing.
      .def(
          "matmul",
          [](const PackedMatrix& self, uintptr_t x, uintptr_t y, int64_t tokens, bool exact, int threads) {
            const auto run = exact ? matmul_exact : matmul_fast;
            run(self.matrix, reinterpret_cast<const float*>(x), tokens, reinterpret_cast<float*>(y), threads);
          },
          nb::arg("x"), nb::arg("y"), nb::arg("tokens"), nb::arg("exact"), nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>())
      .def(
          "gather_rows",
          [](const PackedMatrix& self, uintptr_t ids, int64_t count, uintptr_t out, int threads) {
            const auto* index = reinterpret_cast<const int64_t*>(ids);
            for (int64_t i = 0; i < count; ++i) {
              if (index[i] < 0 || index[i] >= self.matrix.rows) return i;
            }
            dequantize_rows(self.matrix, index, count, reinterpret_cast<float*>(out), threads);
            return int64_t{-1};
          },
          nb::arg("ids"), nb::arg("count"), nb::arg("out"), nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>())
      .def("integer_codebook", [](const PackedMatrix& self) {
        const IntCodebook& book = self.matrix.integer;
        nb::list q;
        for (int i = 0; i < self.matrix.n_levels; ++i) q.append(static_cast<int>(book.q[i]));
        nb::dict out;
        out["q"] = q;
        out["step"] = book.step;
        out["base"] = book.base;
        out["centre"] = book.centre;
        out["depth"] = book.depth;
        out["identity"] = book.identity;
        out["activation_group"] = self.matrix.activation_group;
        return out;
      });
}

}  // namespace kbit
