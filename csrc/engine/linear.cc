// Matrices that read one input: norm, rotation and quantization once, then strips of tiles, each with its epilogue while it is in the cache.
#include <algorithm>
#include <cstring>

#include "step.h"

namespace kbit::engine {

void quantize_rows(const Worker& worker, const Matrix& like, const float* x, int64_t stride, int64_t begin, int64_t end, const QuantizedRows& out) {
  const int64_t groups = input_groups(like), bytes = input_bytes(like);
  for (int64_t r = begin; r < end; ++r) {
    quantize_input(worker.step.kernels, like, x + (r - begin) * stride, out.q + r * bytes, out.scale + r * groups, out.sum + r * groups);
  }
}

Activations activations_of(const Matrix& like, const QuantizedRows& rows, int64_t first) {
  const int64_t groups = input_groups(like), bytes = input_bytes(like);
  return {rows.q + first * bytes, rows.scale + first * groups, rows.sum + first * groups, bytes, groups};
}

void multiply(const Worker& worker, const Weight& weight, const Inputs& inputs, int64_t begin, int64_t end, float* y, int64_t y_stride) {
  if (weight.dense != nullptr) {
    worker.step.vector.dense(*weight.dense, inputs.rows, inputs.stride, inputs.count, y, y_stride, begin, end);
    return;
  }
  const Matrix& m = *weight.packed;
  const int64_t first = begin / kTileRows, last = ceil_div(end, kTileRows);
  float* origin = y - begin;  // kernels count rows from the matrix's first
  const PartInputs beside{inputs.rows, inputs.stride, inputs.latent, rank_of(weight)};
  if (worker.step.input.exact) run_tiles_exact(worker.step.kernels, m, beside, inputs.count, origin, y_stride, first, last, worker.own.decoded);
  else run_tiles_fast(worker.step.kernels, m, inputs.quantized, beside, inputs.count, origin, y_stride, first, last, worker.own.decoded);
}

namespace {

bool packed_fast(const Worker& worker, const Part& part) { return part.weight.packed != nullptr && !worker.step.input.exact; }

// What a part wants of its input: int8 by groups of so many or fp32 (0), rotated by blocks of so many or not (0).
struct Form {
  int64_t group, rotation;
  bool operator==(const Form&) const = default;
};

Form form_of(const Worker& worker, const Part& part) { return {packed_fast(worker, part) ? group_of(part.weight) : 0, rotation_of(part.weight)}; }

// A run of consecutive parts that share one form of the input.
struct Span {
  size_t begin, end;
};

Span next_span(const Worker& worker, const Linear& op, size_t begin) {
  size_t end = begin + 1;
  const Form form = form_of(worker, op.parts[begin]);
  while (end < op.parts.size() && form == form_of(worker, op.parts[end])) ++end;
  return {begin, end};
}

// One row is prepared by each worker for itself, which is cheaper than to wait for another; more rows are shared out. Of what is quantized the
// fp32 row is kept no longer than that takes, unless there are products beside the codes. `second` is for another form of an input whose
// first form is still needed.
Inputs prepare(Worker& worker, const Linear& op, Span span, bool second = false) {
  const Step& step = worker.step;
  const Part& part = op.parts[span.begin];
  const int64_t cols = part.weight.cols(), width = worker.width(op.source), rows = worker.rows;
  const bool alone = rows == 1, quantized = packed_fast(worker, part), normed = op.norm.kind != Norm::Kind::none;
  const bool kept = !quantized || std::any_of(&part, &part + (span.end - span.begin), [](const Part& one) { return adds_parts(one.weight); });
  const int64_t rotation = rotation_of(part.weight);
  float* own = second ? worker.own.second : worker.own.normed;
  float* out = alone ? own : (second ? step.shared.second : step.shared.normed);
  const QuantizedRows& bytes = alone ? worker.own.quantized[second] : step.shared.quantized[second];
  const int64_t begin = alone ? 0 : worker.begin(rows), end = alone ? 1 : worker.end(rows);
  for (int64_t r = begin; r < end; ++r) {
    const float* x = worker.row(op.source, r);
    float* place = kept ? out + r * cols : own;
    if (normed) {
      step.vector.norm(op.norm, x, cols, place);
      x = place;
    }
    if (rotation != 0) {
      step.vector.rotate_inputs(x, cols, rotation, place);
      x = place;
    }
    if (quantized) quantize_rows(worker, *part.weight.packed, x, cols, r, r + 1, bytes);
  }
  if (!alone) worker.wait();
  const bool moved = normed || rotation != 0;
  Inputs inputs{moved ? out : worker.row(op.source, 0), moved ? cols : width, {}, rows};
  if (quantized) inputs.quantized = activations_of(*part.weight.packed, bytes, 0);
  return inputs;
}

// Where V·x of the low rank of part `index` lies.
float* latents_of(const Worker& worker, const Linear& op, size_t index) {
  int64_t before = 0;
  for (size_t i = 0; i < index; ++i) before += rank_of(op.parts[i].weight);
  return worker.step.shared.latents + worker.step.max_rows * before;
}

Inputs inputs_of(const Worker& worker, const Linear& op, size_t index, Inputs inputs) {
  inputs.latent = latents_of(worker, op, index);
  return inputs;
}

// V·x of the low ranks of parts [begin, end): all workers share the (row, rank) pairs, and see the results.
void project(Worker& worker, const Linear& op, Span span, const Inputs& inputs) {
  bool any = false;
  for (size_t i = span.begin; i < span.end; ++i) {
    const Weight& weight = op.parts[i].weight;
    const int64_t rank = rank_of(weight);
    if (rank == 0) continue;
    any = true;
    float* latents = latents_of(worker, op, i);
    const int64_t end = worker.end(inputs.count * rank);
    for (int64_t at = worker.begin(inputs.count * rank); at < end;) {
      const int64_t r = at / rank, first = at % rank, last = std::min(rank, first + end - at);
      worker.step.vector.project(weight.packed->parts->low_rank, weight.cols(), inputs.rows + r * inputs.stride, first, last, latents + r * rank);
      at += last - first;
    }
  }
  if (any) worker.wait();
}

void finish(const Worker& worker, const Linear& op, const Part& a, const Part* b, int64_t begin, int64_t end, int64_t stride) {
  const int64_t at = (b == nullptr ? a.at : 0) + begin - a.begin, size = end - begin;
  for (int64_t r = 0; r < worker.rows; ++r) {
    const float* y = worker.own.strip + r * stride;
    const float* bias_b = b == nullptr || b->bias == nullptr ? nullptr : b->bias + begin - a.begin;
    worker.step.vector.epilogue({y, a.bias == nullptr ? nullptr : a.bias + begin - a.begin, b == nullptr ? nullptr : y + stride / 2, bias_b,
                                 worker.row(op.out, r) + at, size, op.activation, op.scale, op.softcap, op.accumulate});
  }
}

// Rows of a strip: whole tiles, as many as the decoded weights and the outputs leave room for.
int64_t strip_rows(const Worker& worker, const Weight& weight, int64_t matrices) {
  const int64_t room = kStripFloats / (matrices * worker.rows) / kTileRows * kTileRows;
  const int64_t fitting = std::max<int64_t>(room, kTileRows);
  if (worker.rows == 1 || weight.packed == nullptr) return fitting;
  return std::min(fitting, tiles_per_strip(*weight.packed) * kTileRows);
}

bool plain(const Linear& op, const Part& part) {
  return part.bias == nullptr && op.activation == Activation::none && op.scale == 1.0f && op.softcap == 0.0f && !op.accumulate;
}

// Rows [begin, end) of a part, counted in the matrix.
void run_rows(const Worker& worker, const Linear& op, const Part& part, const Inputs& inputs, int64_t begin, int64_t end) {
  if (plain(op, part)) {
    multiply(worker, part.weight, inputs, begin, end, worker.row(op.out, 0) + part.at + begin - part.begin, worker.width(op.out));
    return;
  }
  const int64_t strip = strip_rows(worker, part.weight, 1);
  for (int64_t r = begin; r < end; r += strip) {
    const int64_t stop = std::min(r + strip, end);
    multiply(worker, part.weight, inputs, r, stop, worker.own.strip, strip);
    finish(worker, op, part, nullptr, r, stop, strip);
  }
}

void run_gated(const Worker& worker, const Linear& op, const Inputs& gate_inputs, const Inputs& up_inputs) {
  const Part &gate = op.parts[0], &up = op.parts[1];
  const int64_t tiles = ceil_div(gate.end - gate.begin, kTileRows);
  const int64_t begin = worker.begin(tiles) * kTileRows, end = std::min(worker.end(tiles) * kTileRows, gate.end - gate.begin);
  const int64_t strip = strip_rows(worker, gate.weight, 2);
  for (int64_t r = begin; r < end; r += strip) {
    const int64_t stop = std::min(r + strip, end);
    multiply(worker, gate.weight, gate_inputs, gate.begin + r, gate.begin + stop, worker.own.strip, 2 * strip);
    multiply(worker, up.weight, up_inputs, up.begin + r, up.begin + stop, worker.own.strip + strip, 2 * strip);
    finish(worker, op, gate, &up, gate.begin + r, gate.begin + stop, 2 * strip);
  }
}

int64_t tiles_of(const Part& part) { return ceil_div(part.end - part.begin, kTileRows); }

// The tiles of a span's parts, end to end, are split evenly.
void run_parts(const Worker& worker, const Linear& op, Span span, const Inputs& inputs) {
  int64_t total = 0;
  for (size_t i = span.begin; i < span.end; ++i) total += tiles_of(op.parts[i]);
  int64_t before = 0;
  for (size_t i = span.begin; i < span.end; ++i) {
    const Part& part = op.parts[i];
    const int64_t begin = std::max<int64_t>(worker.begin(total) - before, 0), end = std::min(worker.end(total) - before, tiles_of(part));
    if (begin < end) run_rows(worker, op, part, inputs_of(worker, op, i, inputs), part.begin + begin * kTileRows, std::min(part.begin + end * kTileRows, part.end));
    before += tiles_of(part);
  }
}

}  // namespace

void run(Worker& worker, const Linear& op) {
  if (worker.rows == 0) return;
  if (op.gated) {
    const Span first = next_span(worker, op, 0);
    const bool alike = first.end == 2;
    const Inputs gate = prepare(worker, op, first);
    const Inputs up = alike ? gate : prepare(worker, op, {1, 2}, true);
    project(worker, op, first, gate);
    if (!alike) project(worker, op, {1, 2}, up);
    run_gated(worker, op, inputs_of(worker, op, 0, gate), inputs_of(worker, op, 1, up));
    worker.wait();
    return;
  }
  for (size_t begin = 0; begin < op.parts.size();) {
    const Span span = next_span(worker, op, begin);
    const Inputs inputs = prepare(worker, op, span);
    project(worker, op, span, inputs);
    run_parts(worker, op, span, inputs);
    begin = span.end;
    worker.wait();
  }
}

}  // namespace kbit::engine
