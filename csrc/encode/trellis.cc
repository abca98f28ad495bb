// The trellis encoder: the Viterbi algorithm over the states of a shift register, and the search of scales by it.
#include "kbit/trellis.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "encode/trellis_states.h"
#include "guarded_for.h"
#include "scale.h"

namespace kbit {
namespace encode_detail {
namespace {

// best[q] = min over p of cost[p·Q + q], from[q] the first such p.
KBIT_TRELLIS_CLONES void best_before(const float* cost, int64_t branches, int64_t count, float* best, int32_t* from) {
  std::memcpy(best, cost, static_cast<size_t>(count) * sizeof(float));
  std::memset(from, 0, static_cast<size_t>(count) * sizeof(int32_t));
  for (int64_t p = 1; p < branches; ++p) {
    const float* other = cost + p * count;
    const auto number = static_cast<int32_t>(p);
    for (int64_t q = 0; q < count; ++q) {
      const bool less = other[q] < best[q];
      best[q] = less ? other[q] : best[q];
      from[q] = less ? number : from[q];
    }
  }
}

// cost[c·Q + q] = best[q] − least + weight · (target − scale · level[c·Q + q])².
KBIT_TRELLIS_CLONES void go_on(const float* best, float least, const float* level, float target, float scale, float weight, int64_t branches,
                               int64_t count, float* cost) {
  for (int64_t c = 0; c < branches; ++c, level += count, cost += count) {
    for (int64_t q = 0; q < count; ++q) {
      const float miss = target - scale * level[q];
      cost[q] = best[q] - least + weight * (miss * miss);
    }
  }
}

// The Viterbi algorithm on one row; keeps its memory from row to row.
class Viterbi {
 public:
  explicit Viterbi(const TrellisStates& states)
      : states_(states), cost_(static_cast<size_t>(states.count)), parted_(cost_.size()), best_(static_cast<size_t>(states.prefixes())) {}

  // Starts in state 0, or anywhere.
  void start(bool anywhere, int64_t cols) {
    std::fill(cost_.begin(), cost_.end(), anywhere ? 0.0f : HUGE_VALF);
    cost_[0] = 0.0f;
    total_ = 0.0;
    from_.resize(static_cast<size_t>(cols * states_.prefixes()));
    cols_ = 0;
  }

  void step(float target, float scale, float weight) {
    const int64_t count = states_.prefixes();
    part(states_, cost_.data(), parted_.data());
    best_before(parted_.data(), states_.branches(), count, best_.data(), from_.data() + cols_ * count);
    const float least = smallest(best_.data(), count);
    total_ += least;
    go_on(best_.data(), least, states_.level.data(), target, scale, weight, states_.branches(), count, cost_.data());
    ++cols_;
  }

  double error() const { return total_ + smallest(cost_.data(), states_.count); }

  // The best path's states after each column, last first: visit(column, state).
  template <class Visit>
  void back(Visit&& visit) const {
    int64_t state = std::min_element(cost_.begin(), cost_.end()) - cost_.begin();
    for (int64_t col = cols_ - 1; col >= 0; --col) {
      visit(col, state);
      const int64_t rest = state % states_.prefixes();
      state = rest * states_.branches() + from_[static_cast<size_t>(col * states_.prefixes() + rest)];
    }
  }

 private:
  const TrellisStates& states_;
  std::vector<float> cost_, parted_, best_;
  std::vector<int32_t> from_;
  double total_ = 0.0;
  int64_t cols_ = 0;
};

template <int K>
inline __attribute__((always_inline)) void part_in(const float* in, int64_t count, float* out) {
  for (int64_t q = 0; q < count; ++q) {
    for (int p = 0; p < K; ++p) out[p * count + q] = in[q * K + p];
  }
}

KBIT_TRELLIS_CLONES void part_in_2(const float* in, int64_t count, float* out) { part_in<2>(in, count, out); }
KBIT_TRELLIS_CLONES void part_in_4(const float* in, int64_t count, float* out) { part_in<4>(in, count, out); }
KBIT_TRELLIS_CLONES void part_in_8(const float* in, int64_t count, float* out) { part_in<8>(in, count, out); }
KBIT_TRELLIS_CLONES void part_in_16(const float* in, int64_t count, float* out) { part_in<16>(in, count, out); }

// One group of one row.
struct Group {
  const float* weights;
  const float* importance;  // null: all alike
  int64_t count;

  float weight(int64_t i) const { return importance == nullptr ? 1.0f : importance[i]; }
};

// Scales tried, in parts of the one that gives the levels the spread of the weights.
constexpr float kTried[] = {1.0f, 0.86f, 0.93f, 1.08f, 1.17f};
constexpr int kRefits = 2;

class ScaleSearcher {
 public:
  ScaleSearcher(const TrellisStates& states, ScaleCodec codec) : states_(states), codec_(codec), viterbi_(states) {
    double squares = 0.0;
    for (const float level : states.level) squares += static_cast<double>(level) * level;
    spread_ = std::sqrt(squares / static_cast<double>(states.count));
  }

  StoredScale search(const Group& group) {
    double squares = 0.0, weights = 0.0;
    for (int64_t i = 0; i < group.count; ++i) {
      squares += static_cast<double>(group.weight(i)) * group.weights[i] * group.weights[i];
      weights += group.weight(i);
    }
    if (weights == 0.0) {
      for (int64_t i = 0; i < group.count; ++i) squares += static_cast<double>(group.weights[i]) * group.weights[i];
      weights = static_cast<double>(group.count);
    }
    const auto start = static_cast<float>(std::sqrt(squares / weights) / spread_);
    best_ = StoredScale{};
    error_ = HUGE_VAL;
    fitted_ = 0.0;
    if (start == 0.0f) return best_;
    for (const float part : kTried) attempt(group, codec_.round(part * start));
    for (int refit = 0; refit < kRefits; ++refit) {
      if (!(fitted_ > 0.0) || !attempt(group, codec_.round(static_cast<float>(fitted_)))) break;
    }
    return best_;
  }

 private:
  // Takes the scale if it is the best so far, and fits another to its path by least squares.
  bool attempt(const Group& group, StoredScale scale) {
    if (scale.value == best_.value && error_ < HUGE_VAL) return false;
    viterbi_.start(true, group.count);
    for (int64_t i = 0; i < group.count; ++i) viterbi_.step(group.weights[i], scale.value, group.weight(i));
    const double error = viterbi_.error();
    if (error >= error_) return false;
    best_ = scale;
    error_ = error;
    double product = 0.0, square = 0.0;
    viterbi_.back([&](int64_t col, int64_t state) {
      const double level = states_.level[static_cast<size_t>(state)];
      product += group.weight(col) * group.weights[col] * level;
      square += group.weight(col) * level * level;
    });
    fitted_ = square > 0.0 ? product / square : 0.0;
    return true;
  }

  const TrellisStates& states_;
  ScaleCodec codec_;
  Viterbi viterbi_;
  double spread_;
  StoredScale best_;
  double error_ = HUGE_VAL, fitted_ = 0.0;
};

bool sound(const TrellisCode& code, const TrellisRows& rows) {
  return code.bits >= 1 && code.bits <= kTrellisBits && rows.rows >= 1 && rows.cols >= 1 && rows.group_size >= 1 && rows.group_size <= rows.cols;
}

const float* importance_of(const TrellisRows& rows, int64_t row) {
  return rows.importance == nullptr ? nullptr : rows.importance + row * rows.importance_stride;
}

}  // namespace

KBIT_TRELLIS_CLONES float smallest(const float* values, int64_t count) {
  float lanes[16];
  const int64_t whole = count / 16 * 16;
  float least = values[0];
  if (whole > 0) {
    std::memcpy(lanes, values, sizeof lanes);
    for (int64_t i = 16; i < whole; i += 16) {
      for (int lane = 0; lane < 16; ++lane) lanes[lane] = values[i + lane] < lanes[lane] ? values[i + lane] : lanes[lane];
    }
    for (const float lane : lanes) least = lane < least ? lane : least;
  }
  for (int64_t i = whole; i < count; ++i) least = values[i] < least ? values[i] : least;
  return least;
}

void part(const TrellisStates& states, const float* in, float* out) {
  switch (states.bits) {
    case 1: return part_in_2(in, states.prefixes(), out);
    case 2: return part_in_4(in, states.prefixes(), out);
    case 3: return part_in_8(in, states.prefixes(), out);
    default: return part_in_16(in, states.prefixes(), out);
  }
}

}  // namespace encode_detail

using namespace encode_detail;

Status trellis_scales(const TrellisCode& code, const TrellisRows& rows, ScaleKind kind, float super_scale, uint16_t* stored, float* value, int threads) {
  if (!sound(code, rows) || kind == ScaleKind::dq8) return Status::invalid_argument;
  const TrellisStates states(code);
  const int64_t groups = ceil_div(rows.cols, rows.group_size);
  guarded_for(rows.rows, threads, [&](int64_t begin, int64_t end) {
    ScaleSearcher searcher(states, ScaleCodec(kind, super_scale));
    for (int64_t row = begin; row < end; ++row) {
      const float* importance = importance_of(rows, row);
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t first = group * rows.group_size;
        const StoredScale scale = searcher.search({rows.weights + row * rows.cols + first, importance == nullptr ? nullptr : importance + first,
                                                   std::min(rows.group_size, rows.cols - first)});
        stored[row * groups + group] = scale.bits;
        value[row * groups + group] = scale.value;
      }
    }
  });
  return Status::ok;
}

Status trellis_path(const TrellisCode& code, const TrellisRows& rows, const float* value, uint8_t* steps, int threads) {
  if (!sound(code, rows)) return Status::invalid_argument;
  const TrellisStates states(code);
  const int64_t groups = ceil_div(rows.cols, rows.group_size);
  guarded_for(rows.rows, threads, [&](int64_t begin, int64_t end) {
    Viterbi viterbi(states);
    for (int64_t row = begin; row < end; ++row) {
      const float* importance = importance_of(rows, row);
      viterbi.start(false, rows.cols);
      for (int64_t col = 0; col < rows.cols; ++col) {
        viterbi.step(rows.weights[row * rows.cols + col], value[row * groups + col / rows.group_size], importance == nullptr ? 1.0f : importance[col]);
      }
      viterbi.back([&](int64_t col, int64_t state) { steps[row * rows.cols + col] = states.step(state); });
    }
  });
  return Status::ok;
}

}  // namespace kbit
