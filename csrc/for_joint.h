// From the bits and dims of a joint codebook, known when a matrix runs, to template arguments. Static like for_bits.
#pragma once

namespace kbit {

// Calls body.template operator()<K, D>() for the pairs that `build_joint` permits.
template <class Body>
static inline void for_joint(int bits, int dims, Body&& body) {
  if (dims == 3) return bits == 3 ? body.template operator()<3, 3>() : body.template operator()<6, 3>();
  switch (bits) {
    case 2: return body.template operator()<2, 2>();
    case 3: return body.template operator()<3, 2>();
    case 4: return body.template operator()<4, 2>();
    case 5: return body.template operator()<5, 2>();
    default: return body.template operator()<6, 2>();
  }
}

}  // namespace kbit
