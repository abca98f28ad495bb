// The states of a trellis as the encoder numbers them: with their bits in reverse, the newest step highest.
//
// State t goes on to t' = c·Q + t / K for each of K = 2^bits branches c, Q = 2^L / K, so that all of one branch lie side by side, and what
// t' = c·Q + q came from is one of q·K … q·K + K − 1. A branch's step is c with its bits in reverse.
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

constexpr int64_t reversed(int64_t value, int bits) {
  int64_t out = 0;
  for (int bit = 0; bit < bits; ++bit) out |= (value >> bit & 1) << (bits - 1 - bit);
  return out;
}

struct TrellisStates {
  int bits, state_bits;
  int64_t count;             // 2^L
  std::vector<float> level;  // [count]

  explicit TrellisStates(const TrellisCode& code)
      : bits(code.bits), state_bits(trellis_state_bits(code.bits)), count(int64_t{1} << state_bits), level(static_cast<size_t>(count)) {
    for (int64_t t = 0; t < count; ++t) level[static_cast<size_t>(t)] = code.levels[trellis_index(static_cast<uint32_t>(stream(t)), bits)];
  }

  int64_t branches() const { return int64_t{1} << bits; }
  int64_t prefixes() const { return count >> bits; }
  int64_t stream(int64_t t) const { return reversed(t, state_bits); }  // the last L bits of the stream, and back
  uint8_t step(int64_t t) const { return static_cast<uint8_t>(reversed(t / prefixes(), bits)); }
};

// out[p·Q + q] = in[q·K + p]: what each state may come from, branch by branch.
void part(const TrellisStates& states, const float* in, float* out);

float smallest(const float* values, int64_t count);

}  // namespace kbit::encode_detail
