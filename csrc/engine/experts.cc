// A mixture of experts: rows are routed, gathered expert by expert, multiplied, and summed up again in the order of their own choices.
#include <algorithm>
#include <cstring>

#include "step.h"

namespace kbit::engine {
namespace {

// Norm, router, softmax and the choice of experts, row by row; then the rotation that the experts want.
void route(const Worker& worker, const Experts& op) {
  const Step& step = worker.step;
  const int64_t cols = op.router.cols(), experts = static_cast<int64_t>(op.gate_up.size());
  for (int64_t r = worker.begin(worker.rows); r < worker.end(worker.rows); ++r) {
    float *z = step.shared.normed + r * cols, *p = step.shared.routing + r * experts;
    if (op.norm.kind == Norm::Kind::none) std::memcpy(z, worker.row(op.source, r), static_cast<size_t>(cols) * sizeof(float));
    else step.vector.norm(op.norm, worker.row(op.source, r), cols, z);
    step.vector.dense(*op.router.dense, z, cols, 1, p, experts, 0, experts);
    step.vector.softmax(p, experts);
    int32_t* chosen = step.shared.chosen + r * op.top_k;
    float* share = step.shared.shares + r * op.top_k;
    float total = 0.0f;
    for (int64_t k = 0; k < op.top_k; ++k) {
      int64_t best = -1;
      for (int64_t e = 0; e < experts; ++e) {
        if (std::find(chosen, chosen + k, e) == chosen + k && (best < 0 || p[e] > p[best])) best = e;
      }
      chosen[k] = static_cast<int32_t>(best);
      share[k] = p[best];
      total += p[best];
    }
    for (int64_t k = 0; op.normalize && k < op.top_k; ++k) share[k] /= total;
    if (const int64_t rotation = rotation_of(op.gate_up[0]); rotation != 0) step.vector.rotate_inputs(z, cols, rotation, z);
  }
}

// Positions of all (row, choice) pairs, sorted by expert, rows ascending within one.
void sort_by_expert(const Worker& worker, const Experts& op) {
  const Step& step = worker.step;
  const int64_t pairs = worker.rows * op.top_k, experts = static_cast<int64_t>(op.gate_up.size());
  int32_t* starts = step.shared.starts;
  std::fill(starts, starts + experts + 1, 0);
  for (int64_t i = 0; i < pairs; ++i) ++starts[step.shared.chosen[i] + 1];
  for (int64_t e = 0; e < experts; ++e) starts[e + 1] += starts[e];
  for (int64_t e = 0, next = 0; e < experts; ++e) {
    for (int64_t i = 0; i < pairs; ++i) {
      if (step.shared.chosen[i] == e) step.shared.slots[i] = static_cast<int32_t>(next++);
    }
  }
}

// A matrix's rows for the pairs [first, first + count).
Inputs inputs_of(const Worker& worker, const Weight& weight, const float* rows, int64_t first, int64_t count) {
  const int64_t cols = weight.cols();
  Inputs inputs{rows + first * cols, cols, {}, count};
  if (weight.packed != nullptr) inputs.quantized = activations_of(*weight.packed, worker.step.shared.quantized[0], first);
  inputs.latent = worker.step.shared.latents + first * rank_of(weight);
  return inputs;
}

void rotate_hidden(const Worker& worker, const Experts& op, int64_t pairs) {
  const int64_t rotation = rotation_of(op.down[0]), width = op.down[0].cols();
  if (rotation == 0) return;
  for (int64_t i = worker.begin(pairs); i < worker.end(pairs); ++i) {
    float* row = worker.step.shared.hidden + i * width;
    worker.step.vector.rotate_inputs(row, width, rotation, row);
  }
}

// V·x of the low ranks of all pairs' own experts.
void project_pairs(const Worker& worker, const std::vector<Weight>& weights, const float* rows, int64_t pairs) {
  const int64_t rank = rank_of(weights[0]), cols = weights[0].cols();
  if (rank == 0) return;
  const int32_t* starts = worker.step.shared.starts;
  const int64_t end = worker.end(pairs);
  size_t expert = 0;
  for (int64_t i = worker.begin(pairs); i < end; ++i) {
    while (starts[expert + 1] <= i) ++expert;
    worker.step.vector.project(weights[expert].packed->parts->low_rank, cols, rows + i * cols, 0, rank, worker.step.shared.latents + i * rank);
  }
}

void quantize_pairs(const Worker& worker, const Weight& weight, const float* rows, int64_t pairs) {
  if (weight.packed == nullptr || worker.step.input.exact) return;
  const int64_t begin = worker.begin(pairs), end = worker.end(pairs);
  quantize_rows(worker, *weight.packed, rows + begin * weight.cols(), weight.cols(), begin, end, worker.step.shared.quantized[0]);
}

void gather(const Worker& worker, const Experts& op) {
  const Step& step = worker.step;
  const int64_t cols = op.router.cols(), pairs = worker.rows * op.top_k;
  for (int64_t i = worker.begin(pairs); i < worker.end(pairs); ++i) {
    std::memcpy(step.shared.gathered + step.shared.slots[i] * cols, step.shared.normed + i / op.top_k * cols, static_cast<size_t>(cols) * sizeof(float));
  }
}

// body(expert, first pair, pairs, tile begin, tile end): every worker gets an even share of all busy experts' tiles.
template <class Body>
void share_tiles(const Worker& worker, int64_t experts, int64_t tiles, Body&& body) {
  const int32_t* starts = worker.step.shared.starts;
  int64_t busy = 0;
  for (int64_t e = 0; e < experts; ++e) busy += starts[e + 1] > starts[e] ? 1 : 0;
  const int64_t begin = worker.begin(busy * tiles), end = worker.end(busy * tiles);
  for (int64_t e = 0, before = 0; e < experts; ++e) {
    if (starts[e + 1] == starts[e]) continue;
    const int64_t from = std::max<int64_t>(begin - before, 0), to = std::min(end - before, tiles);
    if (from < to) body(e, starts[e], starts[e + 1] - starts[e], from, to);
    before += tiles;
  }
}

void run_gate_up(const Worker& worker, const Experts& op) {
  const int64_t width = op.down[0].cols();
  share_tiles(worker, static_cast<int64_t>(op.gate_up.size()), ceil_div(width, kTileRows),
              [&](int64_t e, int64_t first, int64_t count, int64_t from, int64_t to) {
                const Weight& weight = op.gate_up[static_cast<size_t>(e)];
                const int64_t begin = from * kTileRows, end = std::min(to * kTileRows, width);
                const int64_t strip = std::max(kStripFloats / (2 * count) / kTileRows * kTileRows, int64_t{kTileRows});
                const Inputs inputs = inputs_of(worker, weight, worker.step.shared.gathered, first, count);
                for (int64_t r = begin; r < end; r += strip) {
                  const int64_t stop = std::min(r + strip, end);
                  multiply(worker, weight, inputs, r, stop, worker.own.strip, 2 * strip);
                  multiply(worker, weight, inputs, width + r, width + stop, worker.own.strip + strip, 2 * strip);
                  for (int64_t i = 0; i < count; ++i) {
                    const float* y = worker.own.strip + i * 2 * strip;
                    float* out = worker.step.shared.hidden + (first + i) * width + r;
                    worker.step.vector.epilogue({y, nullptr, y + strip, nullptr, out, stop - r, op.activation, 1.0f, 0.0f, false});
                  }
                }
              });
}

void run_down(const Worker& worker, const Experts& op) {
  const int64_t rows = op.down[0].rows();
  share_tiles(worker, static_cast<int64_t>(op.down.size()), ceil_div(rows, kTileRows),
              [&](int64_t e, int64_t first, int64_t count, int64_t from, int64_t to) {
                const Weight& weight = op.down[static_cast<size_t>(e)];
                const int64_t begin = from * kTileRows, end = std::min(to * kTileRows, rows);
                const Inputs inputs = inputs_of(worker, weight, worker.step.shared.hidden, first, count);
                multiply(worker, weight, inputs, begin, end, worker.step.shared.expert_out + first * rows + begin, rows);
              });
}

void combine(const Worker& worker, const Experts& op) {
  const Step& step = worker.step;
  const int64_t width = op.down[0].rows();
  for (int64_t r = worker.begin(worker.rows); r < worker.end(worker.rows); ++r) {
    float *out = worker.row(op.out, r), *total = worker.own.normed;
    std::memset(total, 0, static_cast<size_t>(width) * sizeof(float));
    for (int64_t k = 0; k < op.top_k; ++k) {
      const int64_t i = r * op.top_k + k;
      step.vector.add(step.shared.expert_out + step.shared.slots[i] * width, step.shared.shares[i], width, total);
    }
    if (!op.accumulate) std::memset(out, 0, static_cast<size_t>(width) * sizeof(float));
    step.vector.add(total, 1.0f, width, out);
  }
}

}  // namespace

void run(Worker& worker, const Experts& op) {
  const int64_t pairs = worker.rows * op.top_k;
  route(worker, op);
  worker.wait();
  if (worker.index == 0) sort_by_expert(worker, op);
  worker.wait();
  gather(worker, op);
  worker.wait();
  quantize_pairs(worker, op.gate_up[0], worker.step.shared.gathered, pairs);
  project_pairs(worker, op.gate_up, worker.step.shared.gathered, pairs);
  worker.wait();
  run_gate_up(worker, op);
  worker.wait();
  rotate_hidden(worker, op, pairs);
  quantize_pairs(worker, op.down[0], worker.step.shared.hidden, pairs);
  project_pairs(worker, op.down, worker.step.shared.hidden, pairs);
  worker.wait();
  run_down(worker, op);
  worker.wait();
  combine(worker, op);
  worker.wait();
}

}  // namespace kbit::engine
