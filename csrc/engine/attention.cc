// Attention: keys and values of the step's rows go into the cache, then every query walks its sequence's pages in order. Attention to a
// memory is the same walk over another cache, whose pages an encoder's step has filled.
#include <algorithm>
#include <cmath>
#include <limits>

#include "step.h"

namespace kbit::engine {
namespace {

bool rotated(CacheFormat format) { return format != CacheFormat::fp32 && format != CacheFormat::fp16; }

// cos and sin of each row's angles: fp32 angles, as the models were trained with, rounded once each.
void fill_angles(const Worker& worker, const Rotary& rotary) {
  for (int64_t r = worker.begin(worker.rows); r < worker.end(worker.rows); ++r) {
    float* cosines = worker.step.shared.angles + r * 2 * rotary.pairs;
    for (int64_t i = 0; i < rotary.pairs; ++i) {
      const double angle = static_cast<float>(worker.step.positions[r]) * rotary.frequencies[i];
      cosines[i] = static_cast<float>(std::cos(angle)) * rotary.factor;
      cosines[rotary.pairs + i] = static_cast<float>(std::sin(angle)) * rotary.factor;
    }
  }
}

void prepare_head(const Worker& worker, const Attention& op, const Norm& norm, int64_t row, float* head) {
  const VectorOps& vector = worker.step.vector;
  if (norm.kind != Norm::Kind::none) vector.norm(norm, head, op.head_dim, head);
  if (op.rotary.pairs != 0) {
    const float* cosines = worker.step.shared.angles + row * 2 * op.rotary.pairs;
    vector.rotate(head, cosines, cosines + op.rotary.pairs, op.rotary.pairs, op.rotary.interleaved);
  }
  if (rotated(worker.step.cache.format())) vector.hadamard(head, op.head_dim);
}

float* head_of(const Worker& worker, const Heads& heads, int64_t row, int64_t head) { return worker.row(heads.buffer, row) + heads.at + head * heads.stride; }

// Units are (row, kv head) with the query heads that share it.
void store_rows(const Worker& worker, const Attention& op) {
  const Step& step = worker.step;
  const int64_t units = worker.rows * op.kv_heads, shared = op.heads / op.kv_heads;
  for (int64_t u = worker.begin(units); u < worker.end(units); ++u) {
    const int64_t row = u / op.kv_heads, kv = u % op.kv_heads;
    float *key = head_of(worker, op.k, row, kv), *value = head_of(worker, op.v, row, kv);
    prepare_head(worker, op, op.k_norm, row, key);
    if (rotated(step.cache.format())) step.vector.hadamard(value, op.head_dim);
    for (int64_t h = kv * shared; h < (kv + 1) * shared; ++h) prepare_head(worker, op, op.q_norm, row, head_of(worker, op.q, row, h));
    const int64_t position = step.positions[row], sequence = step.input.segments[step.segment_of_row[row]].sequence;
    uint8_t* block = step.cache.block(sequence, position / kPagePositions, op.layer, kv);
    step.vector.store_position(step.cache.format(), block, op.head_dim, position % kPagePositions, key, value);
  }
}

// Some rows of one segment for one kv head: up to kQueries queries that walk the pages together.
struct Unit {
  int64_t first, count, kv;
};

// What is walked: pages [0, length) of a sequence of a cache.
struct Pages {
  const Cache& cache;
  int64_t sequence, length;
};

class Walk {
 public:
  Walk(const Worker& worker, const Attention& op, const Pages& pages, const Unit& unit)
      : worker_(worker), op_(op), pages_(pages), unit_(unit), shared_(op.heads / op.kv_heads) {
    for (int64_t i = 0; i < unit.count; ++i) {
      for (int64_t h = 0; h < shared_; ++h) add_query(unit.first + i, unit.kv * shared_ + h);
    }
  }

  void run() {
    const int64_t last = op_.causal ? worker_.step.positions[unit_.first + unit_.count - 1] + 1 : pages_.length;
    int64_t first = 0;
    if (op_.window != 0) first = std::max<int64_t>(0, worker_.step.positions[unit_.first] + 1 - op_.window);
    for (int64_t page = first / kPagePositions; page * kPagePositions < last; ++page) visit(page);
    write();
  }

 private:
  void add_query(int64_t row, int64_t head) {
    const int64_t i = count_++;
    row_[i] = row;
    head_[i] = head;
    q_[i] = head_of(worker_, op_.q, row, head);
    state_[i] = worker_.own.states + i * (2 + op_.head_dim);
    state_[i][0] = -std::numeric_limits<float>::infinity();
    std::fill(state_[i] + 1, state_[i] + 2 + op_.head_dim, 0.0f);
    if (op_.slopes != nullptr) slope_[i] = op_.slopes[head];
    if (op_.relative.table != nullptr) biases_[i] = op_.relative.table + head * (2 * op_.relative.reach - 1);
  }

  // Biases of a page whose first position is `distance` after the query.
  const float* biases_of(int64_t i, int64_t distance) const {
    if (op_.relative.table == nullptr) return nullptr;
    const int64_t least = 1 - op_.relative.reach, most = op_.relative.reach - kPagePositions;
    return biases_[i] + std::clamp(distance, least, most) - least;
  }

  void visit(int64_t page) {
    const Step& step = worker_.step;
    const int64_t begin = page * kPagePositions, used = std::min(pages_.length - begin, kPagePositions);
    // Queries that see nothing of the page are left out.
    int64_t count = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t position = step.positions[row_[i]];
      const int64_t high = op_.causal ? std::min(position + 1 - begin, used) : used;
      const int64_t low = op_.window == 0 ? 0 : std::max<int64_t>(0, position + 1 - op_.window - begin);
      if (low >= high) continue;
      page_q_[count] = q_[i];
      page_state_[count] = state_[i];
      low_[count] = static_cast<int32_t>(low);
      high_[count] = static_cast<int32_t>(high);
      page_slope_[count] = slope_[i];
      distance_[count] = static_cast<float>(begin - position);
      page_biases_[count] = biases_of(i, begin - position);
      ++count;
    }
    if (count == 0) return;
    const uint8_t* block = pages_.cache.block(pages_.sequence, page, op_.layer, unit_.kv);
    const float *keys = worker_.own.keys, *values = worker_.own.values;
    if (pages_.cache.format() == CacheFormat::fp32) {
      keys = reinterpret_cast<const float*>(block);
      values = keys + op_.head_dim * kPagePositions;
    } else {
      step.vector.expand(pages_.cache.format(), block, op_.head_dim, used, worker_.own.keys, worker_.own.values);
    }
    step.vector.attend({page_q_, page_state_, low_, high_, op_.slopes == nullptr ? nullptr : page_slope_, distance_,
                        op_.relative.table == nullptr ? nullptr : page_biases_, count, op_.head_dim, used, op_.scale, op_.softcap},
                       keys, values);
  }

  void write() const {
    for (int64_t i = 0; i < count_; ++i) {
      float* out = worker_.row(op_.out, row_[i]) + head_[i] * op_.head_dim;
      std::copy(state_[i] + 2, state_[i] + 2 + op_.head_dim, out);
      worker_.step.vector.scale(1.0f / state_[i][1], op_.head_dim, out);
      if (rotated(pages_.cache.format())) worker_.step.vector.hadamard(out, op_.head_dim);
    }
  }

  const Worker& worker_;
  const Attention& op_;
  const Pages& pages_;
  const Unit& unit_;
  int64_t shared_, count_ = 0;
  int64_t row_[kQueries], head_[kQueries];
  const float *q_[kQueries], *page_q_[kQueries], *biases_[kQueries], *page_biases_[kQueries];
  float *state_[kQueries], *page_state_[kQueries];
  float slope_[kQueries] = {}, page_slope_[kQueries], distance_[kQueries];
  int32_t low_[kQueries], high_[kQueries];
};

// Units in order, dealt out in turn: later rows of a causal segment have more to read.
template <class PagesOf>
void attend_rows(const Worker& worker, const Attention& op, PagesOf&& pages_of) {
  const int64_t rows = std::max<int64_t>(1, kQueries / (op.heads / op.kv_heads));
  int64_t number = 0;
  for (int64_t s = 0; s < worker.step.input.segment_count; ++s) {
    const Segment& segment = worker.step.input.segments[s];
    const Pages pages = pages_of(segment);
    for (int64_t r = 0; r < segment.count; r += rows) {
      for (int64_t kv = 0; kv < op.kv_heads; ++kv, ++number) {
        if (number % worker.count != worker.index) continue;
        const Unit unit{segment.first + r, std::min(rows, segment.count - r), kv};
        Walk(worker, op, pages, unit).run();
      }
    }
  }
}

}  // namespace

void run(Worker& worker, const Attention& op) {
  if (op.rotary.pairs != 0) {
    fill_angles(worker, op.rotary);
    worker.wait();
  }
  store_rows(worker, op);
  worker.wait();
  attend_rows(worker, op, [&](const Segment& segment) {
    // Lengths advance after the step: what is in the cache now is what was there, and the rows of this step.
    return Pages{worker.step.cache, segment.sequence, worker.step.positions[segment.first] + segment.count};
  });
  worker.wait();
}

void run(Worker& worker, const Remember& op) {
  const Step& step = worker.step;
  const int64_t units = worker.rows * op.kv_heads;
  for (int64_t u = worker.begin(units); u < worker.end(units); ++u) {
    const int64_t row = u / op.kv_heads, kv = u % op.kv_heads, position = step.positions[row];
    uint8_t* block = step.memory->block(step.input.segments[step.segment_of_row[row]].memory, position / kPagePositions, op.layer, kv);
    const float *key = head_of(worker, op.k, row, kv), *value = head_of(worker, op.v, row, kv);
    step.vector.store_position(step.memory->format(), block, op.head_dim, position % kPagePositions, key, value);
  }
  worker.wait();
}

void run(Worker& worker, const CrossAttention& op) {
  Attention attention{};
  attention.layer = op.layer;
  attention.q = op.q;
  attention.out = op.out;
  attention.heads = op.heads;
  attention.kv_heads = op.kv_heads;
  attention.head_dim = op.head_dim;
  attention.scale = op.scale;
  const Cache& memory = *worker.step.memory;
  attend_rows(worker, attention, [&](const Segment& segment) { return Pages{memory, segment.memory, memory.length(segment.memory)}; });
  worker.wait();
}

}  // namespace kbit::engine
