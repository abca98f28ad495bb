// The matrix tiles of AMX: eight registers of up to 16 rows × 64 bytes.
//
// Inline assembly, since the intrinsics of g++ 12 want literal register numbers and do not say that they read and write memory.
#pragma once

#include <cstdint>

#include "kbit/kbit.h"

namespace kbit::avx512::tiles {

// What registers hold. Each block of tokens has sums of its own; more registers, used in turn, gained nothing.
constexpr int kSums = 0, kOtherSums = 3, kTokens = 1, kLevels = 2;

// Shapes for `tokens` tokens, 1 … 16, and `inputs` inputs of a multiplication, 32 or 64.
class Configuration {
 public:
  Configuration(int tokens, int inputs) {
    set(kSums, tokens, 4 * kTileRows);
    set(kOtherSums, tokens, 4 * kTileRows);
    set(kTokens, tokens, inputs);
    set(kLevels, inputs / 4, 4 * kTileRows);
  }
  void load() const { asm volatile("ldtilecfg %0" ::"m"(*this)); }

 private:
  void set(int index, int rows, int bytes) {
    rows_[index] = static_cast<uint8_t>(rows);
    row_bytes_[index] = static_cast<uint16_t>(bytes);
  }

  uint8_t palette_ = 1, start_row_ = 0, reserved_[14] = {};
  uint16_t row_bytes_[16] = {};
  uint8_t rows_[16] = {};
};
static_assert(sizeof(Configuration) == 64);

// Back to the state in which the system need not save the registers.
inline __attribute__((always_inline)) void release() { asm volatile("tilerelease"); }

template <int Register>
inline __attribute__((always_inline)) void zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(Register));
}

// Rows `stride` bytes apart.
template <int Register>
inline __attribute__((always_inline)) void load(const void* p, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(Register), "r"(p), "r"(stride) : "memory");
}

template <int Register>
inline __attribute__((always_inline)) void store(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(Register), "r"(p), "r"(stride) : "memory");
}

// Sums += signed tokens · levels, four inputs for each 32-bit sum; levels signed or not.
template <int Sums, bool SignedLevels>
inline __attribute__((always_inline)) void multiply() {
  if constexpr (SignedLevels) asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(kTokens), "i"(kLevels));
  else asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(kTokens), "i"(kLevels));
}

}  // namespace kbit::avx512::tiles
