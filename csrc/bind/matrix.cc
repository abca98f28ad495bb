// PackedMatrix: products and rows of a matrix in k bits.
#include "packed_matrix.h"

namespace kbit {

void bind_matrix(nb::module_& m) {
  nb::class_<PackedMatrix>(m, "PackedMatrix")
      .def(nb::init<int64_t, int64_t, int, int64_t, int, Bytes, Bytes, Floats, Bytes, Floats, int, int64_t, bool>(), nb::arg("rows"),
           nb::arg("cols"), nb::arg("bits"), nb::arg("group_size"), nb::arg("scale_kind"), nb::arg("weight"), nb::arg("scale"),
           nb::arg("super_scale"), nb::arg("zero_point"), nb::arg("levels"), nb::arg("dims") = 1, nb::arg("rotation") = 0,
           nb::arg("trellis") = false)
      .def(
          "__init__",
          [](PackedMatrix* self, int64_t rows, int64_t cols, int bits, int64_t group_size, int scale_kind, Bytes weight, Bytes scale,
             Floats super_scale, Bytes zero_point, Floats levels, int64_t rotation, Bytes mask, int64_t tile_bytes, int inserted, int zero) {
            new (self) PackedMatrix(rows, cols, 8, group_size, scale_kind, weight, scale, super_scale, zero_point, levels, 1, rotation, false,
                                    {mask, bits, tile_bytes, inserted, zero});
          },
          nb::arg("rows"), nb::arg("cols"), nb::arg("bits"), nb::arg("group_size"), nb::arg("scale_kind"), nb::arg("weight"), nb::arg("scale"),
          nb::arg("super_scale"), nb::arg("zero_point"), nb::arg("levels"), nb::arg("rotation"), nb::arg("mask"), nb::arg("tile_bytes"),
          nb::arg("inserted"), nb::arg("zero"))
      .def("set_outliers", &PackedMatrix::set_outliers, nb::arg("counts"), nb::arg("places"), nb::arg("values"))
      .def("set_columns", &PackedMatrix::set_columns, nb::arg("index"), nb::arg("values"))
      .def("set_low_rank", &PackedMatrix::set_low_rank, nb::arg("left"), nb::arg("right"), nb::arg("scale"))
      .def("set_residual", &PackedMatrix::set_residual, nb::arg("levels"))
      // Addresses of contiguous fp32 memory: an ndarray argument costs microseconds, an integer nothing.
      .def(
          "matmul",
          [](const PackedMatrix& self, uintptr_t x, uintptr_t y, int64_t tokens, bool exact, int threads) {
            const auto run = exact ? matmul_exact : matmul_fast;
            run(self.matrix, reinterpret_cast<const float*>(x), tokens, reinterpret_cast<float*>(y), self.matrix.rows, threads);
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
      .def("activation_group", [](const PackedMatrix& self) { return self.matrix.activation_group; })
      .def(
          "variant_possible", [](const PackedMatrix& self, int variant) { return variant_possible(self.matrix, static_cast<Variant>(variant)); },
          nb::arg("variant"))
      .def(
          "select_variant",
          [](PackedMatrix& self, int token_class, int variant) {
            return select_variant(self.matrix, token_class, static_cast<Variant>(variant)) == Status::ok;
          },
          nb::arg("token_class"), nb::arg("variant"))
      .def("integer_codebook", [](const PackedMatrix& self) {
        const IntCodebook& book = self.matrix.integer;
        nb::list q;
        for (int c = 0; c < self.matrix.dims; ++c) {
          for (int i = 0; i < self.matrix.n_levels; ++i) q.append(static_cast<int>(book.q[kJointEntries * c + i]));
        }
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
