// Codes <-> planes. kbit.native.encoding checks sizes before it comes here.
#include "bind.h"
#include "kbit/kbit.h"

namespace kbit {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

}  // namespace

void bind_packing(nb::module_& m) {
  m.def(
      "pack",
      [](const Bytes& codes, int64_t rows, int64_t cols, int bits, const MutableBytes& planes, int threads) {
        const nb::gil_scoped_release release;
        pack(codes.data(), rows, cols, bits, planes.data(), threads);
      },
      nb::arg("codes"), nb::arg("rows"), nb::arg("cols"), nb::arg("bits"), nb::arg("planes"), nb::arg("threads"));
  m.def(
      "unpack",
      [](const Bytes& planes, int64_t rows, int64_t cols, int bits, int64_t row_begin, int64_t row_end, const MutableBytes& codes, int threads) {
        const nb::gil_scoped_release release;
        unpack(planes.data(), rows, cols, bits, row_begin, row_end, codes.data(), threads);
      },
      nb::arg("planes"), nb::arg("rows"), nb::arg("cols"), nb::arg("bits"), nb::arg("row_begin"), nb::arg("row_end"), nb::arg("codes"),
      nb::arg("threads"));
  m.def(
      "check_codes",
      [](const Bytes& planes, int64_t rows, int64_t cols, int bits, int n_levels, int threads) {
        const nb::gil_scoped_release release;
        return check_codes(planes.data(), rows, cols, bits, n_levels, threads) == Status::ok;
      },
      nb::arg("planes"), nb::arg("rows"), nb::arg("cols"), nb::arg("bits"), nb::arg("n_levels"), nb::arg("threads"));
}

}  // namespace kbit
