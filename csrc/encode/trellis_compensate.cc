// The trellis encoder with errors made up for: the path that each state keeps carries what its errors add to the columns to come.
#include <algorithm>
#include <cfloat>
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
KBIT_TRELLIS_CLONES void choose(const float* __restrict before, const float* __restrict aim, const float* __restrict level, float unit,
                                int64_t branches, int64_t count, float* __restrict cost, int32_t* __restrict from) {
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

// Costs beyond `most` become HUGE_VALF; how many are left.
KBIT_TRELLIS_CLONES int64_t cut(float* cost, float most, int64_t count) {
  int32_t kept = 0;
  for (int64_t t = 0; t < count; ++t) {
    const bool beyond = cost[t] > most;
    cost[t] = beyond ? HUGE_VALF : cost[t];
    kept += beyond ? 0 : 1;
  }
  return kept;
}

// How far above the least cost a path may be and still be kept. Most states are worth nothing, and each costs its row of errors; what is
// kept is held near kKept by what was kept before.
class Reach {
 public:
  static constexpr int64_t kKept = 256;

  // Paths beyond cost HUGE_VALF from here on.
  void drop(std::vector<float>& cost) {
    const auto count = static_cast<int64_t>(cost.size());
    const float least = smallest(cost.data(), count);
    const int64_t kept = cut(cost.data(), reach_ == HUGE_VALF ? FLT_MAX : least + reach_, count);
    if (reach_ < HUGE_VALF) reach_ *= kept > kKept ? 0.9f : 1.05f;
    else if (kept > kKept) reach_ = middle(cost, least);
  }

 private:
  static float middle(const std::vector<float>& cost, float least) {
    double sum = 0.0;
    int64_t count = 0;
    for (const float value : cost) {
      if (value != HUGE_VALF) sum += static_cast<double>(value - least), ++count;
    }
    return static_cast<float>(sum / static_cast<double>(count));
  }

  float reach_ = HUGE_VALF;
};

constexpr int64_t kLine = 16;  // floats of a cache line

// What a column adds to those after it, along the path of every state; whole lines, from the one of the next column on.
struct Carry {
  const int32_t* from;   // branch of the state that the path came from
  const float* level;
  int64_t prefixes, branches;
  float weight, scale;
  const float* factor;   // R of the column, 0 up to the column itself
  int64_t lines, stride; // lines left, and floats between the rows of states
  const float* before;   // [states, stride]
  float* after;
  float next;            // R · w of the next column
  int64_t next_at;       // its place in the first line
  float* aim;            // what the next column aims at, times its R
};

KBIT_TRELLIS_CLONES void carry(const Carry& c, const int32_t* states, int64_t count) {
  for (int64_t n = 0; n < count; ++n) {
    const int64_t t = states[n];
    const float* __restrict before = c.before + ((t & (c.prefixes - 1)) * c.branches + c.from[t]) * c.stride;
    float* __restrict after = c.after + t * c.stride;
    const float* __restrict factor = c.factor;
    const float error = c.weight - c.scale * c.level[t];
    for (int64_t line = 0; line < c.lines; ++line) {
      for (int i = 0; i < kLine; ++i) after[line * kLine + i] = before[line * kLine + i] + error * factor[line * kLine + i];
    }
    c.aim[t] = c.next + after[c.next_at];
  }
}

// The states that have a path, in order, and how many they are.
int64_t list(const std::vector<float>& cost, std::vector<int32_t>& states) {
  int64_t count = 0;
  for (size_t t = 0; t < cost.size(); ++t) {
    states[static_cast<size_t>(count)] = static_cast<int32_t>(t);
    count += cost[t] != HUGE_VALF ? 1 : 0;
  }
  return count;
}

// One row after another; keeps its memory.
class Survivors {
 public:
  Survivors(const TrellisStates& states, const TrellisBlock& block)
      : states_(states),
        block_(block),
        stride_(((block.cols + kLine - 1) / kLine | 1) * kLine),
        cost_(static_cast<size_t>(states.count)),
        next_(cost_.size()),
        aim_(cost_.size()),
        parted_cost_(cost_.size()),
        parted_aim_(cost_.size()),
        carried_(static_cast<size_t>(states.count * stride_)),
        moved_(carried_.size()),
        factor_(static_cast<size_t>(block.cols * stride_)),
        from_(static_cast<size_t>(states.count * block.cols)),
        kept_(cost_.size()) {
    for (int64_t col = 0; col < block.cols; ++col) {
      std::copy(block.factor + col * (block.cols + 1) + 1, block.factor + (col + 1) * block.cols, factor_.data() + col * stride_ + col + 1);
    }
  }

  void run(int64_t row, uint16_t* state, uint8_t* steps, float* error) {
    const int64_t cols = block_.cols, count = states_.count, branches = states_.branches(), prefixes = states_.prefixes();
    const float* weights = block_.weights + row * cols;
    const float* scale = block_.scale + row * cols;
    std::fill(cost_.begin(), cost_.end(), HUGE_VALF);
    const int64_t first = states_.stream(*state);
    cost_[first] = 0.0f;
    std::memcpy(carried_.data() + first * stride_, block_.carried + row * cols, static_cast<size_t>(cols) * sizeof(float));
    aim_[first] = block_.factor[0] * weights[0] + carried_[first * stride_];
    Reach reach;
    for (int64_t col = 0; col < cols; ++col) {
      const float* factor = block_.factor + col * (cols + 1);
      part(states_, cost_.data(), parted_cost_.data());
      part(states_, aim_.data(), parted_aim_.data());
      int32_t* from = from_.data() + col * count;
      for (int64_t c = 0; c < branches; ++c) {
        const int64_t at = c * prefixes;
        choose(parted_cost_.data(), parted_aim_.data(), states_.level.data() + at, *factor * scale[col], branches, prefixes, next_.data() + at, from + at);
      }
      if (col + 1 < cols) {
        reach.drop(next_);
        const int64_t line = (col + 1) / kLine * kLine;
        carry({from, states_.level.data(), prefixes, branches, weights[col], scale[col], factor_.data() + col * stride_ + line,
               (cols - line + kLine - 1) / kLine, stride_, carried_.data() + line, moved_.data() + line, factor[cols + 1] * weights[col + 1],
               col + 1 - line, aim_.data()},
              kept_.data(), list(next_, kept_));
        carried_.swap(moved_);
      }
      cost_.swap(next_);
      const float least = smallest(cost_.data(), count);
      for (float& cost : cost_) cost -= least;
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
  int64_t stride_;  // an odd number of lines, so that rows do not share a cache set
  std::vector<float> cost_, next_, aim_, parted_cost_, parted_aim_, carried_, moved_, factor_;
  std::vector<int32_t> from_, kept_;
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
