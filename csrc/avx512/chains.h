// Sums of a few tokens in several registers each, added to in turn: enough of them hide the latency of vpdpbusd.
#pragma once
#include "tile.h"

namespace kbit::avx512 {

template <int Tokens, int Count>
struct Chains {
  Sums of[Tokens][Count];

  inline __attribute__((always_inline)) Chains() {
#pragma GCC unroll 6
    for (int i = 0; i < Tokens * Count; ++i) of[i / Count][i % Count] = Sums{};
  }

  inline __attribute__((always_inline)) void add_to(Sums (&sum)[Tokens]) const {
#pragma GCC unroll 6
    for (int i = 0; i < Tokens * Count; ++i) sum[i / Count] += of[i / Count][i % Count];
  }
};

}  // namespace kbit::avx512
