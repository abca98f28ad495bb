// Loops whose index is a constant: arrays of registers stay registers, and lane numbers are immediates.
#pragma once

#include <utility>

#define KBIT_INLINE __attribute__((always_inline))

namespace kbit::neon {
namespace {

// body.template operator()<0>() … <Count − 1>().
template <int Count, class Body>
KBIT_INLINE inline void unroll(Body&& body) {
  [&]<int... Index>(std::integer_sequence<int, Index...>) KBIT_INLINE { (body.template operator()<Index>(), ...); }
  (std::make_integer_sequence<int, Count>());
}

}  // namespace
}  // namespace kbit::neon
