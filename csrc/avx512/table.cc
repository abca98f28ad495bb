// The AVX-512 table, and the loops that measure what this instruction set can do at best.
#include "avx512.h"
#include "dot.h"
#include "intrinsics.h"

namespace kbit {
namespace avx512 {

uint64_t read(const uint8_t* data, int64_t bytes) {
  __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  for (int64_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 4
    for (int lane = 0; lane < 4; ++lane) sum[lane] = _mm512_add_epi64(sum[lane], _mm512_loadu_si512(data + i + 64 * lane));
  }
  const __m512i all = _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3]));
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(all));
}

// vpdpbusd in twelve independent chains, 64 multiply-adds each: two a cycle at a latency of five need ten.
int64_t dot_products(int64_t rounds) {
  constexpr int kChains = 12;
  volatile int start = 3;
  Sums sum[kChains];
  for (int i = 0; i < kChains; ++i) sum[i] = Sums{} + (start + i);
  const __m512i w = _mm512_set1_epi8(static_cast<char>(start)), x = _mm512_set1_epi8(static_cast<char>(start + 1));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = multiply_add(sum[i], w, x);
  }
  for (int i = 1; i < kChains; ++i) sum[0] += sum[i];
  volatile int sink = _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(sum[0]));
  static_cast<void>(sink);
  return rounds * kChains * 64;
}

const VariantKernels variants{lookup, integer, serial};

}  // namespace avx512

const Kernels avx512_kernels{"avx512", avx512::quantize, avx512::fast, avx512::exact, avx512::read, avx512::dot_products, &avx512_vector_ops,
                             &avx512::variants};
#if defined(KBIT_AMX)
const Kernels amx_kernels{"amx", avx512::quantize, avx512::tiled, avx512::exact, avx512::read, avx512::dot_products, &avx512_vector_ops,
                          &avx512::variants};
#endif

}  // namespace kbit
