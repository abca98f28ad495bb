// Raw-pointer interface of the engine: a program (a model's forward step as a flat list of operations) and the cache that it reads and writes.
//
// `run` is one call a step. One team of threads walks the list, with a barrier after each phase; nothing is allocated. A row is a token; a row's
// results depend on its own sequence only, never on what else is in the step, nor on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "kbit/kbit.h"

namespace kbit::engine {

// ---------------------------------------------------------------- weights

enum class DenseType : int { fp32 = 0, fp16 = 1, bf16 = 2 };

// A matrix that is not packed, row-major.
struct Dense {
  const void* data;
  DenseType type;
  int64_t rows, cols;
};

// Exactly one of the two is set; both stay alive with their owner.
struct Weight {
  const Matrix* packed = nullptr;
  const Dense* dense = nullptr;
  int64_t rows() const { return packed != nullptr ? packed->rows : dense->rows; }
  int64_t cols() const { return packed != nullptr ? packed->inputs : dense->cols; }
};

// ---------------------------------------------------------------- operations (src/kbit/engine/ops.py says what each one means)

enum class Activation : int { none, relu, gelu, gelu_tanh, quick_gelu, silu, tanh };
enum class Source : int { token, position, type };

struct Norm {
  enum class Kind : int { none, rms, layer } kind = Kind::none;
  const float* weight = nullptr;  // null: ones
  const float* bias = nullptr;    // null: zeros
  float eps = 0;
};

struct Embed {
  Weight table;
  int out;
  Source source;
  float scale;
  int64_t offset;
  bool accumulate;
};

// Rows at position 0 of their sequence become the table's one row; others stay.
struct Begin {
  Weight table;
  int out;
};

struct Normalize {
  int source, out;
  Norm norm;
  bool accumulate;
};

struct Part {
  Weight weight;
  int64_t begin, end;  // rows; of a packed matrix multiples of 16, but for its last row
  const float* bias;   // [end − begin] or null
  int64_t at;
};

struct Linear {
  int source;
  Norm norm;
  std::vector<Part> parts;
  int out;
  Activation activation;
  bool gated, accumulate;
  float scale, softcap;  // softcap 0: none
};

struct Heads {
  int buffer;
  int64_t at, stride;
};

struct Rotary {
  const float* frequencies;  // [pairs]
  int64_t pairs;             // 0: no rotation
  bool interleaved;
  float factor;
};

// A bias of scores by distance, key − query, from a table for all distances from −(reach − 1) to reach − 1. Beyond −last and last it is as
// there, and reach is at least last + a page's positions: what a page adds to the scores of a query is then a run of the table.
struct Relative {
  const float* table;  // [heads, 2·reach − 1], or null
  int64_t last, reach;
};

struct Attention {
  int64_t layer;
  Heads q, k, v;
  int out;
  int64_t heads, kv_heads, head_dim;
  float scale, softcap;
  bool causal;
  Rotary rotary;
  Norm q_norm, k_norm;
  int64_t window;       // 0: all
  const float* slopes;  // [heads] of ALiBi, or null
  Relative relative;
};

// Keys and values of the step's rows into the memory of their segments.
struct Remember {
  int64_t layer;
  Heads k, v;
  int64_t kv_heads, head_dim;
};

// Every row over all of its segment's memory.
struct CrossAttention {
  int64_t layer;
  Heads q;
  int out;
  int64_t heads, kv_heads, head_dim;
  float scale;
};

struct Experts {
  int source, out;
  Norm norm;
  Weight router;
  std::vector<Weight> gate_up, down;  // one an expert; gate rows first
  int64_t top_k;
  bool normalize, accumulate;
  Activation activation;
};

struct Select {
  int source, out;
};

using Operation = std::variant<Embed, Begin, Normalize, Linear, Attention, Remember, CrossAttention, Experts, Select>;

// ---------------------------------------------------------------- cache

enum class CacheFormat : int { fp32 = 0, fp16 = 1, int8 = 2, int4 = 3, int3 = 4 };

constexpr int64_t kPagePositions = 32;

// Keys and values of all sequences, in pages of 32 positions. A page holds all layers and heads for its positions. Sequences are lists of
// pages with reference counts: a fork shares them, and what is written to is copied first.
class Cache {
 public:
  // `pages` pages of address space are reserved; memory is used as it is written. Throws std::bad_alloc where there is no room.
  Cache(int64_t layers, int64_t kv_heads, int64_t head_dim, CacheFormat format, int64_t pages);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  int64_t create();
  bool alive(int64_t sequence) const;
  int64_t length(int64_t sequence) const { return sequences_[static_cast<size_t>(sequence)].length; }
  // A new sequence of the first `length` positions of another.
  int64_t fork(int64_t sequence, int64_t length);
  void truncate(int64_t sequence, int64_t length);
  void release(int64_t sequence);
  // Room for `count` positions more; false, with nothing changed, where the pages do not suffice.
  bool reserve(int64_t sequence, int64_t count);
  void advance(int64_t sequence, int64_t count) { sequences_[static_cast<size_t>(sequence)].length += count; }

  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  int64_t pages() const { return pages_; }
  int64_t page_bytes() const { return page_bytes_; }
  int64_t layers() const { return layers_; }
  int64_t kv_heads() const { return kv_heads_; }
  int64_t head_dim() const { return head_dim_; }
  CacheFormat format() const { return format_; }

  // Keys and values of one head of one layer in page `index` of the sequence.
  uint8_t* block(int64_t sequence, int64_t index, int64_t layer, int64_t head) const {
    const int64_t page = sequences_[static_cast<size_t>(sequence)].pages[static_cast<size_t>(index)];
    return memory_ + page * page_bytes_ + (layer * kv_heads_ + head) * block_bytes_;
  }

 private:
  struct Sequence {
    std::vector<int32_t> pages;
    int64_t length = 0;
    bool alive = false;
  };
  void drop(int32_t page);

  int64_t layers_, kv_heads_, head_dim_, pages_, block_bytes_, page_bytes_;
  CacheFormat format_;
  uint8_t* memory_ = nullptr;
  std::vector<Sequence> sequences_;
  std::vector<int32_t> free_, references_;
};

// ---------------------------------------------------------------- program

// Rows [first, first + count) of a step: the next `count` tokens of a sequence. What an encoder remembers for a decoder lies in a cache of its
// own, `memory` is the sequence there (−1 where the program has no such operations).
struct Segment {
  int64_t sequence, first, count, memory;
};

struct StepInput {
  const int32_t* tokens;  // [rows]; null where rows are numbers
  const float* numbers;   // [rows, width of the input buffer]; null where rows are tokens
  int64_t rows;
  const Segment* segments;
  int64_t segment_count;
  const int64_t* wanted;  // rows whose results are asked for, ascending
  int64_t wanted_count;
  float* result;          // [wanted_count, width of the result buffer]
  bool exact;
  int threads;
};

class Program {
 public:
  explicit Program(int64_t max_rows);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  int buffer(int64_t width);
  void add(Operation operation);
  // `input` is the buffer that `run` reads from the caller's memory (−1: none), `result` the one that it writes there; call once, last.
  // Allocates everything. `threads` is the most that run may be given.
  void finish(int input, int result, int threads);

  // The segments' sequences must have room (Cache::reserve); their lengths advance, in `memory` too where the program remembers. Rows:
  // ≤ max_rows, wanted_count ≤ rows. `memory` is null where the program has no operation on it; formats there are fp32 or fp16.
  void run(Cache& cache, Cache* memory, const StepInput& input);

  int64_t max_rows() const;
  int max_threads() const;
  int64_t workspace_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kbit::engine
