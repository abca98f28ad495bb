// KBIT_CLONES compiles a function for AVX2 as well and picks at load time. The loops below it are plain C++ over a fixed
// number of lanes, without reassociation or contraction, so every clone computes the same bits.
#pragma once

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define KBIT_CLONES __attribute__((target_clones("default", "avx2")))
#else
#define KBIT_CLONES
#endif

namespace kbit::encode_detail {

constexpr int kLanes = 16;  // spans are padded to a multiple of this

}  // namespace kbit::encode_detail
