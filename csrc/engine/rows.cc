// Operations on rows alone: embeddings, norms, the choice of wanted rows.
#include <cstring>

#include "half.h"
#include "layout.h"
#include "step.h"

namespace kbit::engine {
namespace {

int64_t index_of(const Worker& worker, const Embed& op, int64_t row) {
  switch (op.source) {
    case Source::token: return worker.step.input.tokens[row] + op.offset;
    case Source::position: return worker.step.positions[row] + op.offset;
    case Source::type: return op.offset;
  }
  return 0;
}

// out (+)= factor · row `index` of a matrix.
void table_row(const Worker& worker, const Weight& table, int64_t index, float factor, bool accumulate, float* out) {
  if (table.packed == nullptr) return worker.step.vector.dense_row(*table.dense, index, factor, accumulate, out);
  const Matrix& m = *table.packed;
  float* line = worker.own.normed;
  dequantize_rows(m, &index, 1, line, 1);
  if (!accumulate) std::memset(out, 0, static_cast<size_t>(m.inputs) * sizeof(float));
  worker.step.vector.add(line, factor, m.inputs, out);
}

}  // namespace

void run(Worker& worker, const Embed& op) {
  for (int64_t r = worker.begin(worker.rows); r < worker.end(worker.rows); ++r) {
    table_row(worker, op.table, index_of(worker, op, r), op.scale, op.accumulate, worker.row(op.out, r));
  }
  worker.wait();
}

void run(Worker& worker, const Begin& op) {
  for (int64_t r = worker.begin(worker.rows); r < worker.end(worker.rows); ++r) {
    if (worker.step.positions[r] == 0) table_row(worker, op.table, 0, 1.0f, false, worker.row(op.out, r));
  }
  worker.wait();
}

void run(Worker& worker, const Normalize& op) {
  const int64_t width = worker.width(op.source);
  for (int64_t r = worker.begin(worker.rows); r < worker.end(worker.rows); ++r) {
    float* out = worker.row(op.out, r);
    if (!op.accumulate) {
      worker.step.vector.norm(op.norm, worker.row(op.source, r), width, out);
      continue;
    }
    worker.step.vector.norm(op.norm, worker.row(op.source, r), width, worker.own.normed);
    worker.step.vector.add(worker.own.normed, 1.0f, width, out);
  }
  worker.wait();
}

void run(Worker& worker, const Select& op) {
  const auto bytes = static_cast<size_t>(worker.width(op.source)) * sizeof(float);
  worker.rows = worker.step.input.wanted_count;
  for (int64_t i = worker.begin(worker.rows); i < worker.end(worker.rows); ++i) {
    std::memcpy(worker.row(op.out, i), worker.row(op.source, worker.step.input.wanted[i]), bytes);
  }
  worker.wait();
}

}  // namespace kbit::engine
