// Rows of weights or inputs, rotated and back. kbit.native.rotation checks sizes before it comes here.
#include "bind.h"
#include "kbit/kbit.h"

namespace kbit {

void bind_rotation(nb::module_& m) {
  using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
  using MutableFloats = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
  m.def(
      "rotate_rows",
      [](const Floats& x, int64_t block, bool back, const MutableFloats& out, int threads) {
        const nb::gil_scoped_release release;
        const auto run = back ? restore_rows : rotate_rows;
        run(x.data(), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)), block, out.data(), threads);
      },
      nb::arg("x"), nb::arg("block"), nb::arg("back"), nb::arg("out"), nb::arg("threads"));
}

}  // namespace kbit
