// The one multiplication of fast mode: vpdpbusd, four products of an unsigned and a signed byte added to a 32-bit sum.
#pragma once

#include <cstdint>

#include "intrinsics.h"

namespace kbit::avx512 {

// Sums keep the type that vpdpbusd works on: as __m512i, 64-bit lanes to g++, every step would copy them to and fro.
typedef int32_t Sums __attribute__((vector_size(64)));

inline __attribute__((always_inline)) Sums multiply_add(Sums sum, __m512i w, __m512i x) {
  return reinterpret_cast<Sums>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), w, x));
}

}  // namespace kbit::avx512
