// Weights → packed planes and stored scales. kbit.native.encoding checks sizes before it comes here; an empty array is "none".
#include <stdexcept>

#include "bind.h"
#include "kbit/encode.h"

namespace kbit {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableFloats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class Array>
auto pointer_or_null(const Array& array) {
  return array.shape(0) == 0 ? nullptr : array.data();
}

// First bad index, or -1.
int64_t reported(Status status, int64_t first_bad) {
  if (status == Status::invalid_argument) throw std::invalid_argument("encode: bad sizes");
  return status == Status::ok ? -1 : first_bad;
}

}  // namespace

void bind_encode(nb::module_& m) {
  m.def(
      "scan",
      [](const Bytes& weights, int weight_type, int64_t rows, int64_t cols, int64_t group_size, bool zero_points, int threads) {
        double spread = 0.0;
        int64_t first_bad = -1;
        Status status;
        {
          const nb::gil_scoped_release release;
          const Weights view{weights.data(), static_cast<WeightType>(weight_type), rows, cols};
          status = scan(view, group_size, zero_points, threads, &spread, &first_bad);
        }
        return nb::make_tuple(reported(status, first_bad), spread);
      },
      nb::arg("weights"), nb::arg("weight_type"), nb::arg("rows"), nb::arg("cols"), nb::arg("group_size"), nb::arg("zero_points"),
      nb::arg("threads"));
  m.def(
      "encode",
      [](const Bytes& weights, int weight_type, int64_t rows, int64_t cols, const Floats& importance, int64_t importance_stride,
         const Floats& levels, int bits, float anchor, bool mirrored, int64_t group_size, int search, int scale_kind, float matrix_super_scale,
         const MutableBytes& planes, const MutableBytes& scale, const MutableFloats& tile_super_scale, const MutableBytes& zero_point,
         int threads) {
        const nb::gil_scoped_release release;
        const EncodeTask task{
            .weights = {weights.data(), static_cast<WeightType>(weight_type), rows, cols},
            .importance = pointer_or_null(importance),
            .importance_stride = importance_stride,
            .levels = levels.data(),
            .n_levels = static_cast<int>(levels.shape(0)),
            .bits = bits,
            .anchor = anchor,
            .mirrored = mirrored,
            .zero_points = zero_point.shape(0) != 0,
            .group_size = group_size,
            .search = static_cast<ScaleSearch>(search),
            .scale_kind = static_cast<ScaleKind>(scale_kind),
            .matrix_super_scale = matrix_super_scale,
            .planes = planes.data(),
            .scale = scale.data(),
            .tile_super_scale = pointer_or_null(tile_super_scale),
            .zero_point = pointer_or_null(zero_point),
        };
        int64_t first_bad = -1;
        const Status status = encode(task, threads, &first_bad);
        return reported(status, first_bad);
      },
      nb::arg("weights"), nb::arg("weight_type"), nb::arg("rows"), nb::arg("cols"), nb::arg("importance"), nb::arg("importance_stride"),
      nb::arg("levels"), nb::arg("bits"), nb::arg("anchor"), nb::arg("mirrored"), nb::arg("group_size"), nb::arg("search"),
      nb::arg("scale_kind"), nb::arg("matrix_super_scale"), nb::arg("planes"), nb::arg("scale"), nb::arg("tile_super_scale"),
      nb::arg("zero_point"), nb::arg("threads"));
}

}  // namespace kbit
