// The trellis encoder with errors made up for: rows of a block, one after another, by the walk of the instruction set (vector/trellis_walk.inl).
#include <algorithm>

#include "encode/trellis_states.h"
#include "guarded_for.h"
#include "kernels.h"

namespace kbit {
namespace encode_detail {
namespace {

// States, about.
constexpr int64_t kept_of(int bits) { return bits == 4 ? 128 : 256; }

// One row after another; keeps its memory.
class Walker {
 public:
  Walker(const TrellisStates& states, const TrellisBlock& block, const float* factor, int64_t stride)
      : states_(states), block_(block), factor_(factor), stride_(stride) {}

  void run(int64_t row, uint16_t* state, uint8_t* steps, float* error) {
    const int64_t cols = block_.cols;
    const float *weights = block_.weights + row * cols, *scale = block_.scale + row * cols;
    std::copy_n(block_.carried + row * cols, cols, carried_.get());
    std::fill(carried_.get() + cols, carried_.get() + stride_, 0.0f);
    TrellisWalk walk{states_.bits, states_.level.data(), weights, scale, carried_.get(), factor_, cols, stride_, kept_of(states_.bits),
                     cost_.get(), next_.get(), who_.get(), lines_.get(), moved_.get(), before_.get(), root_.get(), moved_root_.get(),
                     before_root_.get(), far_.get(), far_next_.get(), row_.get(), parent_.get(), state_.get(), *state, path_.get()};
    active_kernels().vector->trellis->walk(walk);
    for (int64_t col = 0; col < cols; ++col) {
      steps[col] = states_.step(path_.get()[col]);
      error[col] = weights[col] - scale[col] * states_.level[path_.get()[col]];
    }
    *state = path_.get()[block_.keep - 1];
  }

 private:
  const TrellisStates& states_;
  const TrellisBlock& block_;
  const float* factor_;
  int64_t stride_;
  Lines<float> carried_{stride_}, cost_{kTrellisStates}, next_{kTrellisStates}, lines_{kTrellisStates * kTrellisLine},
      moved_{kTrellisStates * kTrellisLine}, before_{kTrellisStates * kTrellisLine}, far_{kTrellisStates * stride_},
      far_next_{kTrellisStates * stride_};
  Lines<int32_t> who_{kTrellisStates}, root_{kTrellisStates}, moved_root_{kTrellisStates}, before_root_{kTrellisStates}, row_{kTrellisStates};
  Lines<uint16_t> parent_{kTrellisStates * block_.cols}, state_{kTrellisStates * block_.cols}, path_{block_.cols};
};

}  // namespace
}  // namespace encode_detail

using namespace encode_detail;

Status trellis_compensate(const TrellisCode& code, const TrellisBlock& block, uint16_t* state, uint8_t* steps, float* error, int threads) {
  if (code.bits < 1 || code.bits > kTrellisBits || block.rows < 1 || block.cols < 1 || block.keep < 1 || block.keep > block.cols) {
    return Status::invalid_argument;
  }
  for (int64_t row = 0; row < block.rows; ++row) {
    if (state[row] >= kTrellisStates) return Status::invalid_argument;
  }
  const TrellisStates states(code);
  const int64_t cols = block.cols, stride = ceil_div(cols, kTrellisLine) * kTrellisLine;
  const Lines<float> factor(cols * stride);
  for (int64_t col = 0; col < cols; ++col) {
    float* line = std::fill_n(factor.get() + col * stride, col, 0.0f);
    std::fill(std::copy(block.factor + col * cols + col, block.factor + (col + 1) * cols, line), factor.get() + (col + 1) * stride, 0.0f);
  }
  guarded_for(block.rows, threads, [&](int64_t begin, int64_t end) {
    Walker walker(states, block, factor.get(), stride);
    for (int64_t row = begin; row < end; ++row) walker.run(row, state + row, steps + row * cols, error + row * cols);
  });
  return Status::ok;
}

}  // namespace kbit
