// The states of a trellis and the level of each.
#pragma once

#include <cstdint>
#include <vector>

#include "kbit/trellis.h"
#include "trellis.h"

// noinline: an inlined clone would be the default one.
#if defined(__x86_64__) && defined(__GLIBC__)
#define KBIT_TRELLIS_CLONES __attribute__((noinline, target_clones("default", "avx2", "arch=skylake-avx512")))
#else
#define KBIT_TRELLIS_CLONES __attribute__((noinline))
#endif

namespace kbit::encode_detail {

struct TrellisStates {
  int bits;
  int64_t count;             // 2^L
  std::vector<float> level;  // [count]

  explicit TrellisStates(const TrellisCode& code) : bits(code.bits), count(int64_t{1} << trellis_state_bits(code.bits)), level(static_cast<size_t>(count)) {
    for (int64_t s = 0; s < count; ++s) level[static_cast<size_t>(s)] = code.levels[trellis_index(static_cast<uint32_t>(s), bits)];
  }

  int64_t branches() const { return int64_t{1} << bits; }
  int64_t prefixes() const { return count >> bits; }
};

}  // namespace kbit::encode_detail
