// From the bits of a matrix, known when it runs, to a template argument. Static like what layout.h has: each instruction set compiles its own.
#pragma once

namespace kbit {

// Calls body.template operator()<K>() for k = bits, 1 … 8.
template <class Body>
static inline void for_bits(int bits, Body&& body) {
  switch (bits) {
    case 1: return body.template operator()<1>();
    case 2: return body.template operator()<2>();
    case 3: return body.template operator()<3>();
    case 4: return body.template operator()<4>();
    case 5: return body.template operator()<5>();
    case 6: return body.template operator()<6>();
    case 7: return body.template operator()<7>();
    default: return body.template operator()<8>();
  }
}

}  // namespace kbit
