// The trellis encoder with errors made up for: the path that each state keeps carries what its errors add to the columns to come.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "encode/trellis_states.h"
#include "guarded_for.h"

namespace kbit {
namespace encode_detail {
namespace {

// cost[s'] = min over p of before[s] + (aim[s] − unit · level[s'])², s = p·Q + q for s' = q·K + c; from[s'] the first such p.
template <int K>
inline __attribute__((always_inline)) void choose(const float* before, const float* aim, const float* level, float unit, int64_t count, float* cost,
                                                  int32_t* from) {
  for (int64_t q = 0; q < count; ++q) {
    float least[K], value[K];
    int32_t first[K];
    for (int c = 0; c < K; ++c) {
      value[c] = unit * level[q * K + c];
      const float miss = aim[q] - value[c];
      least[c] = before[q] + miss * miss;
      first[c] = 0;
    }
    for (int p = 1; p < K; ++p) {
      const float so_far = before[p * count + q], target = aim[p * count + q];
      for (int c = 0; c < K; ++c) {
        const float miss = target - value[c];
        const float total = so_far + miss * miss;
        const bool less = total < least[c];
        least[c] = less ? total : least[c];
        first[c] = less ? p : first[c];
      }
    }
    for (int c = 0; c < K; ++c) cost[q * K + c] = least[c], from[q * K + c] = first[c];
  }
}

KBIT_TRELLIS_CLONES void choose_2(const float* before, const float* aim, const float* level, float unit, int64_t count, float* cost, int32_t* from) {
  choose<2>(before, aim, level, unit, count, cost, from);
}
KBIT_TRELLIS_CLONES void choose_4(const float* before, const float* aim, const float* level, float unit, int64_t count, float* cost, int32_t* from) {
  choose<4>(before, aim, level, unit, count, cost, from);
}
KBIT_TRELLIS_CLONES void choose_8(const float* before, const float* aim, const float* level, float unit, int64_t count, float* cost, int32_t* from) {
  choose<8>(before, aim, level, unit, count, cost, from);
}
KBIT_TRELLIS_CLONES void choose_16(const float* before, const float* aim, const float* level, float unit, int64_t count, float* cost, int32_t* from) {
  choose<16>(before, aim, level, unit, count, cost, from);
}

using Choose = void (*)(const float*, const float*, const float*, float, int64_t, float*, int32_t*);
Choose choose_of(int bits) {
  constexpr Choose all[] = {nullptr, choose_2, choose_4, choose_8, choose_16};
  return all[bits];
}

// to[i] = from[i] + error · factor[i].
KBIT_TRELLIS_CLONES void carry(const float* from, const float* factor, float error, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] + error * factor[i];
}

// One row after another; keeps its memory.
class Survivors {
 public:
  Survivors(const TrellisStates& states, const TrellisBlock& block)
      : states_(states),
        block_(block),
        choose_(choose_of(states.bits)),
        cost_(states.count),
        next_(states.count),
        aim_(states.count),
        carried_(static_cast<size_t>(states.count * block.cols)),
        moved_(carried_.size()),
        from_(carried_.size()) {}

  void run(int64_t row, uint16_t* state, uint8_t* steps, float* error) {
    const int64_t cols = block_.cols, count = states_.count, branches = states_.branches(), prefixes = states_.prefixes();
    const float* weights = block_.weights + row * cols;
    const float* scale = block_.scale + row * cols;
    std::fill(cost_.begin(), cost_.end(), HUGE_VALF);
    std::fill(aim_.begin(), aim_.end(), 0.0f);
    cost_[*state] = 0.0f;
    std::memcpy(carried_.data() + *state * cols, block_.carried + row * cols, static_cast<size_t>(cols) * sizeof(float));
    for (int64_t col = 0; col < cols; ++col) {
      const float* factor = block_.factor + col * cols;
      const float unit = factor[col];
      float least = HUGE_VALF;
      for (int64_t s = 0; s < count; ++s) {
        if (cost_[s] == HUGE_VALF) continue;
        aim_[s] = unit * weights[col] + carried_[s * cols + col];
        least = std::min(least, cost_[s]);
      }
      for (float& cost : cost_) cost -= least;
      int32_t* from = from_.data() + col * count;
      choose_(cost_.data(), aim_.data(), states_.level.data(), unit * scale[col], prefixes, next_.data(), from);
      for (int64_t s = 0; s < count; ++s) {
        if (next_[s] == HUGE_VALF) continue;
        const int64_t before = from[s] * prefixes + s / branches;
        const float miss = weights[col] - scale[col] * states_.level[s];
        carry(carried_.data() + before * cols + col + 1, factor + col + 1, miss, cols - col - 1, moved_.data() + s * cols + col + 1);
      }
      cost_.swap(next_);
      carried_.swap(moved_);
    }
    int64_t at = std::min_element(cost_.begin(), cost_.end()) - cost_.begin();
    for (int64_t col = cols - 1; col >= 0; --col) {
      if (col == block_.keep - 1) *state = static_cast<uint16_t>(at);
      steps[col] = static_cast<uint8_t>(at % branches);
      error[col] = weights[col] - scale[col] * states_.level[at];
      at = from_[static_cast<size_t>(col * count + at)] * prefixes + at / branches;
    }
  }

 private:
  const TrellisStates& states_;
  const TrellisBlock& block_;
  Choose choose_;
  std::vector<float> cost_, next_, aim_, carried_, moved_;
  std::vector<int32_t> from_;
};

}  // namespace
}  // namespace encode_detail

using namespace encode_detail;

Status trellis_compensate(const TrellisCode& code, const TrellisBlock& block, uint16_t* state, uint8_t* steps, float* error, int threads) {
  if (code.bits < 1 || code.bits > kTrellisBits || block.rows < 1 || block.cols < 1 || block.keep < 1 || block.keep > block.cols) {
    return Status::invalid_argument;
  }
  const TrellisStates states(code);
  for (int64_t row = 0; row < block.rows; ++row) {
    if (state[row] >= states.count) return Status::invalid_argument;
  }
  guarded_for(block.rows, threads, [&](int64_t begin, int64_t end) {
    Survivors survivors(states, block);
    for (int64_t row = begin; row < end; ++row) survivors.run(row, state + row, steps + row * block.cols, error + row * block.cols);
  });
  return Status::ok;
}

}  // namespace kbit
