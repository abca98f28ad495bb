// Weights → steps of a trellis and scales of its groups. kbit.native.trellis checks sizes before it comes here; an empty array is "none".
#include <stdexcept>

#include "bind.h"
#include "kbit/trellis.h"
#include "trellis.h"

namespace kbit {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableFloats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableWords = nb::ndarray<uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const float* pointer_or_null(const Floats& array) { return array.shape(0) == 0 ? nullptr : array.data(); }

void check(Status status) {
  if (status != Status::ok) throw std::invalid_argument("trellis: bad sizes");
}

}  // namespace

void bind_trellis(nb::module_& m) {
  m.def("trellis_multiplier", [](int bits) -> int { return bits >= 1 && bits <= kTrellisBits ? trellis_multiplier(bits) : 0; }, nb::arg("bits"));
  m.def(
      "trellis_scales",
      [](int bits, const Floats& levels, const Floats& weights, const Floats& importance, int64_t importance_stride, int64_t rows, int64_t cols,
         int64_t group_size, const Floats& parts, int refits, int scale_kind, float super_scale, const MutableWords& stored,
         const MutableFloats& value, int threads) {
        const nb::gil_scoped_release release;
        check(trellis_scales({bits, levels.data()}, {weights.data(), pointer_or_null(importance), importance_stride, rows, cols, group_size},
                             {parts.data(), static_cast<int64_t>(parts.size()), refits}, static_cast<ScaleKind>(scale_kind), super_scale,
                             stored.data(), value.data(), threads));
      },
      nb::arg("bits"), nb::arg("levels"), nb::arg("weights"), nb::arg("importance"), nb::arg("importance_stride"), nb::arg("rows"), nb::arg("cols"),
      nb::arg("group_size"), nb::arg("parts"), nb::arg("refits"), nb::arg("scale_kind"), nb::arg("super_scale"), nb::arg("stored"), nb::arg("value"),
      nb::arg("threads"));
  m.def(
      "trellis_path",
      [](int bits, const Floats& levels, const Floats& weights, const Floats& importance, int64_t importance_stride, int64_t rows, int64_t cols,
         int64_t group_size, const Floats& value, const MutableBytes& steps, int threads) {
        const nb::gil_scoped_release release;
        check(trellis_path({bits, levels.data()}, {weights.data(), pointer_or_null(importance), importance_stride, rows, cols, group_size},
                           value.data(), steps.data(), threads));
      },
      nb::arg("bits"), nb::arg("levels"), nb::arg("weights"), nb::arg("importance"), nb::arg("importance_stride"), nb::arg("rows"), nb::arg("cols"),
      nb::arg("group_size"), nb::arg("value"), nb::arg("steps"), nb::arg("threads"));
  m.def(
      "trellis_compensate",
      [](int bits, const Floats& levels, const Floats& weights, const Floats& carried, const Floats& factor, const Floats& scale, int64_t rows,
         int64_t cols, int64_t keep, const MutableWords& state, const MutableBytes& steps, const MutableFloats& error, int threads) {
        const nb::gil_scoped_release release;
        check(trellis_compensate({bits, levels.data()}, {weights.data(), carried.data(), factor.data(), scale.data(), rows, cols, keep}, state.data(),
                                 steps.data(), error.data(), threads));
      },
      nb::arg("bits"), nb::arg("levels"), nb::arg("weights"), nb::arg("carried"), nb::arg("factor"), nb::arg("scale"), nb::arg("rows"),
      nb::arg("cols"), nb::arg("keep"), nb::arg("state"), nb::arg("steps"), nb::arg("error"), nb::arg("threads"));
}

}  // namespace kbit
