// Vectors of 8 lanes by the compilers' vector extension, and KBIT_CLONES, which compiles a function for AVX2 as well and picks
// when the library is loaded. Lanes are independent, nothing is contracted: every clone computes the same bits.
#pragma once

#include <cstdint>
#include <cstring>

// noinline: an inlined clone would be the default one.
#if defined(__x86_64__) && defined(__GLIBC__)
#define KBIT_CLONES __attribute__((noinline, target_clones("default", "avx2")))
#else
#define KBIT_CLONES __attribute__((noinline))
#endif

namespace kbit::encode_detail {

constexpr int kLanes = 8;
constexpr int kSpanAlign = 16;  // spans are padded to a multiple of this

// Local variables only: as parameters, their passing would depend on the instruction set.
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(8)));
typedef float HalfFloats __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(32)));

}  // namespace kbit::encode_detail
