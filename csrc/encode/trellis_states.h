// The states of a trellis as the encoder numbers them: the last L = 10 bits of the stream, the newest step lowest.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "kbit/trellis.h"
#include "trellis.h"
#include "vector/trellis_ops.h"

namespace kbit::encode_detail {

struct TrellisStates {
  int bits;
  std::array<float, kTrellisStates> level;

  explicit TrellisStates(const TrellisCode& code) : bits(code.bits) {
    for (int64_t s = 0; s < kTrellisStates; ++s) level[static_cast<size_t>(s)] = code.levels[trellis_index(static_cast<uint32_t>(s), bits)];
  }

  int64_t prefixes() const { return kTrellisStates >> bits; }
  int64_t before(int64_t s, int64_t branch) const { return branch * prefixes() + (s >> bits); }
  uint8_t step(int64_t s) const { return static_cast<uint8_t>(s & ((1 << bits) - 1)); }
};

static_assert(kTrellisStates == 1 << trellis_state_bits(1) && kTrellisStates == 1 << trellis_state_bits(2) &&
              kTrellisStates == 1 << trellis_state_bits(3) && kTrellisStates == 1 << trellis_state_bits(4));

// Memory in whole cache lines that nobody has written to yet.
template <class T>
class Lines {
 public:
  explicit Lines(int64_t count) : data_(static_cast<T*>(std::aligned_alloc(64, (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64)), std::free) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  T* get() const { return data_.get(); }

 private:
  std::unique_ptr<T, decltype(&std::free)> data_;
};

}  // namespace kbit::encode_detail
