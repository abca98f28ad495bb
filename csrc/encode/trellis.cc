// The trellis encoder: the Viterbi algorithm over the states of a shift register, and the search of scales by it.
#include "kbit/trellis.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "encode/trellis_states.h"
#include "guarded_for.h"
#include "kernels.h"
#include "scale.h"

namespace kbit {
namespace encode_detail {
namespace {

// The Viterbi algorithm on one row, its groups one after another; keeps its memory from row to row.
class Viterbi {
 public:
  explicit Viterbi(const TrellisStates& states) : states_(states), ops_(*active_kernels().vector->trellis) {}

  // Starts in state 0, or anywhere.
  void start(bool anywhere, int64_t cols) {
    std::fill_n(cost_.get(), kTrellisStates, anywhere ? 0.0f : HUGE_VALF);
    cost_.get()[0] = 0.0f;
    from_.resize(static_cast<size_t>(cols * states_.prefixes()));
    cols_ = 0;
    error_ = 0.0;
  }

  // Goes on over columns that share a scale; `weight` may be null.
  void go_on(const float* target, const float* weight, int64_t count, float scale) {
    error_ += ops_.pass({states_.bits, states_.level.data(), target, weight, count, scale, cost_.get(), from_.data() + cols_ * states_.prefixes()});
    cols_ += count;
  }

  double error() const { return error_; }

  // The best path's states after each column, last first: visit(column, state).
  template <class Visit>
  void back(Visit&& visit) const {
    int64_t state = std::min_element(cost_.get(), cost_.get() + kTrellisStates) - cost_.get();
    for (int64_t col = cols_ - 1; col >= 0; --col) {
      visit(col, state);
      state = states_.before(state, from_[static_cast<size_t>(col * states_.prefixes() + (state >> states_.bits))]);
    }
  }

 private:
  const TrellisStates& states_;
  const TrellisOps& ops_;
  Lines<float> cost_{kTrellisStates};
  std::vector<uint8_t> from_;
  double error_ = 0.0;
  int64_t cols_ = 0;
};

// One group of one row.
struct Group {
  const float* weights;
  const float* importance;  // null: all alike
  int64_t count;

  float weight(int64_t i) const { return importance == nullptr ? 1.0f : importance[i]; }
};

class ScaleSearcher {
 public:
  ScaleSearcher(const TrellisStates& states, const TrellisTrials& trials, ScaleCodec codec)
      : states_(states), trials_(trials), codec_(codec), viterbi_{Viterbi(states), Viterbi(states)} {
    double squares = 0.0;
    for (const float level : states.level) squares += static_cast<double>(level) * level;
    spread_ = std::sqrt(squares / static_cast<double>(kTrellisStates));
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
    if (start == 0.0f) return best_;
    if (trials_.count == 1 && trials_.refits == 0) return codec_.round(trials_.parts[0] * start);
    for (int64_t i = 0; i < trials_.count; ++i) attempt(group, codec_.round(trials_.parts[i] * start));
    for (int refit = 0; refit < trials_.refits; ++refit) {
      const double fitted = fit(group);
      if (!(fitted > 0.0) || !attempt(group, codec_.round(static_cast<float>(fitted)))) break;
    }
    return best_;
  }

 private:
  // Takes the scale if it is the best so far.
  bool attempt(const Group& group, StoredScale scale) {
    if (scale.value == best_.value && error_ < HUGE_VAL) return false;
    Viterbi& viterbi = viterbi_[1 - best_at_];
    viterbi.start(true, group.count);
    viterbi.go_on(group.weights, group.importance, group.count, scale.value);
    if (viterbi.error() >= error_) return false;
    best_ = scale;
    best_at_ = 1 - best_at_;
    error_ = viterbi.error();
    return true;
  }

  // The scale that suits the best path, by least squares; 0 if there is none.
  double fit(const Group& group) const {
    double product = 0.0, square = 0.0;
    if (error_ == HUGE_VAL) return 0.0;
    viterbi_[best_at_].back([&](int64_t col, int64_t state) {
      const double level = states_.level[static_cast<size_t>(state)];
      product += group.weight(col) * group.weights[col] * level;
      square += group.weight(col) * level * level;
    });
    return square > 0.0 ? product / square : 0.0;
  }

  const TrellisStates& states_;
  TrellisTrials trials_;
  ScaleCodec codec_;
  Viterbi viterbi_[2];  // of the best scale and of the one that is tried
  int best_at_ = 0;
  double spread_;
  StoredScale best_;
  double error_ = HUGE_VAL;
};

bool sound(const TrellisCode& code, const TrellisRows& rows) {
  return code.bits >= 1 && code.bits <= kTrellisBits && rows.rows >= 1 && rows.cols >= 1 && rows.group_size >= 1 && rows.group_size <= rows.cols;
}

const float* importance_of(const TrellisRows& rows, int64_t row) {
  return rows.importance == nullptr ? nullptr : rows.importance + row * rows.importance_stride;
}

}  // namespace

}  // namespace encode_detail

using namespace encode_detail;

Status trellis_scales(const TrellisCode& code, const TrellisRows& rows, const TrellisTrials& trials, ScaleKind kind, float super_scale,
                      uint16_t* stored, float* value, int threads) {
  if (!sound(code, rows) || kind == ScaleKind::dq8 || trials.count < 1) return Status::invalid_argument;
  const TrellisStates states(code);
  const int64_t groups = ceil_div(rows.cols, rows.group_size);
  guarded_for(rows.rows, threads, [&](int64_t begin, int64_t end) {
    ScaleSearcher searcher(states, trials, ScaleCodec(kind, super_scale));
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
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t first = group * rows.group_size, count = std::min(rows.group_size, rows.cols - first);
        viterbi.go_on(rows.weights + row * rows.cols + first, importance == nullptr ? nullptr : importance + first, count, value[row * groups + group]);
      }
      viterbi.back([&](int64_t col, int64_t state) { steps[row * rows.cols + col] = states.step(state); });
    }
  });
  return Status::ok;
}

}  // namespace kbit
