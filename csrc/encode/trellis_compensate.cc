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

// For states [0, count) of one branch: cost[q] = min over p of before[p·count + q] + (aim[p·count + q] − unit · level[q])², from[q] the first
// such p.
KBIT_TRELLIS_CLONES void choose(const float* before, const float* aim, const float* level, float unit, int64_t branches, int64_t count, float* cost,
                                int32_t* from) {
  for (int64_t q = 0; q < count; ++q) {
    const float miss = aim[q] - unit * level[q];
    cost[q] = before[q] + miss * miss;
    from[q] = 0;
  }
  for (int64_t p = 1; p < branches; ++p) {
    before += count, aim += count;
    const auto number = static_cast<int32_t>(p);
    for (int64_t q = 0; q < count; ++q) {
      const float miss = aim[q] - unit * level[q];
      const float total = before[q] + miss * miss;
      const bool less = total < cost[q];
      cost[q] = less ? total : cost[q];
      from[q] = less ? number : from[q];
    }
  }
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
        cost_(static_cast<size_t>(states.count)),
        next_(cost_.size()),
        aim_(cost_.size()),
        parted_cost_(cost_.size()),
        parted_aim_(cost_.size()),
        carried_(static_cast<size_t>(states.count * block.cols)),
        moved_(carried_.size()),
        from_(carried_.size()) {}

  void run(int64_t row, uint16_t* state, uint8_t* steps, float* error) {
    const int64_t cols = block_.cols, count = states_.count, branches = states_.branches(), prefixes = states_.prefixes();
    const float* weights = block_.weights + row * cols;
    const float* scale = block_.scale + row * cols;
    std::fill(cost_.begin(), cost_.end(), HUGE_VALF);
    std::fill(aim_.begin(), aim_.end(), 0.0f);
    const int64_t first = states_.stream(*state);
    cost_[first] = 0.0f;
    std::memcpy(carried_.data() + first * cols, block_.carried + row * cols, static_cast<size_t>(cols) * sizeof(float));
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
      part(states_, cost_.data(), parted_cost_.data());
      part(states_, aim_.data(), parted_aim_.data());
      int32_t* from = from_.data() + col * count;
      for (int64_t c = 0; c < branches; ++c) {
        const int64_t at = c * prefixes;
        choose(parted_cost_.data(), parted_aim_.data(), states_.level.data() + at, unit * scale[col], branches, prefixes, next_.data() + at, from + at);
      }
      for (int64_t t = 0; t < count; ++t) {
        if (next_[t] == HUGE_VALF) continue;
        const int64_t before = t % prefixes * branches + from[t];
        const float miss = weights[col] - scale[col] * states_.level[t];
        carry(carried_.data() + before * cols + col + 1, factor + col + 1, miss, cols - col - 1, moved_.data() + t * cols + col + 1);
      }
      cost_.swap(next_);
      carried_.swap(moved_);
    }
    int64_t at = std::min_element(cost_.begin(), cost_.end()) - cost_.begin();
    for (int64_t col = cols - 1; col >= 0; --col) {
      if (col == block_.keep - 1) *state = static_cast<uint16_t>(states_.stream(at));
      steps[col] = states_.step(at);
      error[col] = weights[col] - scale[col] * states_.level[at];
      at = at % prefixes * branches + from_[static_cast<size_t>(col * count + at)];
    }
  }

 private:
  const TrellisStates& states_;
  const TrellisBlock& block_;
  std::vector<float> cost_, next_, aim_, parted_cost_, parted_aim_, carried_, moved_;
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
