// One forward step as its workers see it: what the operations share.
#pragma once

#include "kbit/engine.h"
#include "kbit/threads.h"
#include "kernels.h"
#include "vector/vector_ops.h"

namespace kbit::engine {

// Activations of some rows in int8, for one size of activation group.
struct QuantizedRows {
  int8_t* q;
  float* scale;
  int32_t* sum;
};

// Memory that the program owns: shared between the workers, and each worker's own. Sizes are the largest that any operation needs.
struct Workspace {
  float* normed;         // [max_rows, widest input]
  float* second;         // the same, where one operation reads two forms of its input at once
  QuantizedRows quantized[2];  // of max_rows rows
  float* angles;         // [max_rows, 2 · most pairs]
  float* routing;        // [max_rows, experts]
  int32_t* chosen;       // [max_rows, top_k] experts of a row
  float* shares;         // [max_rows, top_k] their weights
  int32_t* slots;        // [max_rows · top_k]: position, in the order of experts, of each (row, choice)
  int32_t* starts;       // [experts + 1]: first position of each expert
  float* gathered;       // [max_rows · top_k, inputs] fp32 rows in that order
  float* hidden;         // [max_rows · top_k, width]
  float* expert_out;     // [max_rows · top_k, outputs]
  float* latents;        // V·x of the low ranks of an operation's matrices: [max_rows, rank] one after another; of experts [max_rows · top_k, rank]
};

// A worker's own memory.
struct Own {
  float* normed;
  float* second;
  QuantizedRows quantized[2];
  float* strip;        // outputs of a strip of tiles before their epilogue
  uint8_t* decoded;    // the kernels' scratch
  float* keys;         // a page in fp32
  float* values;
  float* states;       // attention: queries · (2 + head_dim)
};

constexpr int64_t kQueries = 64;              // queries that attention works on at once
constexpr int64_t kStripFloats = 128 * 1024;  // of `Own::strip`

struct Step {
  const Kernels& kernels;
  const VectorOps& vector;
  Cache& cache;
  Cache* memory;  // null where no operation reads or writes it
  const StepInput& input;
  const std::vector<float*>& buffers;
  const std::vector<int64_t>& widths;
  const int32_t* positions;       // [rows]
  const int64_t* segment_of_row;  // [rows]
  Workspace& shared;
  threads::Barrier& barrier;
  int64_t max_rows;
};

struct Worker {
  const Step& step;
  Own own;
  int index, count;
  int64_t rows;  // of this phase: all, then the wanted ones

  void wait() const { step.barrier.wait(); }
  float* row(int buffer, int64_t r) const { return step.buffers[static_cast<size_t>(buffer)] + r * step.widths[static_cast<size_t>(buffer)]; }
  int64_t width(int buffer) const { return step.widths[static_cast<size_t>(buffer)]; }
  // This worker's share of [0, total), contiguous.
  int64_t begin(int64_t total) const { return total * index / count; }
  int64_t end(int64_t total) const { return total * (index + 1) / count; }
};

// Each leaves its results visible to all workers (it ends with a barrier).
void run(Worker& worker, const Embed& op);
void run(Worker& worker, const Begin& op);
void run(Worker& worker, const Normalize& op);
void run(Worker& worker, const Linear& op);
void run(Worker& worker, const Attention& op);
void run(Worker& worker, const Remember& op);
void run(Worker& worker, const CrossAttention& op);
void run(Worker& worker, const Experts& op);
void run(Worker& worker, const Select& op);

// ---------------------------------------------------------------- shared by Linear and Experts (inputs.cc, strips.cc)

// Prepared rows that matrices read: fp32 [rows, cols], and int8 with the activation group of a packed matrix.
struct Inputs {
  const float* rows;  // [count, stride]
  int64_t stride;
  Activations quantized;
  int64_t count;
  const float* latent = nullptr;  // [count, rank] where the matrix has a low rank
};

// Names the form of int8 activations that a packed matrix wants; 0 for a dense one.
inline int64_t group_of(const Weight& weight) {
  return weight.packed != nullptr ? weight.packed->activation_group * (kMostDims + 1) + weight.packed->dims : 0;
}

// Block of the rotation that its inputs go through; 0 for none.
inline int64_t rotation_of(const Weight& weight) { return weight.packed != nullptr ? weight.packed->rotation : 0; }

// Whether it holds something beside its codes that reads its input in fp32.
inline bool adds_parts(const Weight& weight) {
  return weight.packed != nullptr && weight.packed->parts != nullptr && weight.packed->parts->adds();
}

// Rank of what a packed matrix holds beside its codes; 0 for none.
inline int64_t rank_of(const Weight& weight) {
  return weight.packed == nullptr || weight.packed->parts == nullptr ? 0 : weight.packed->parts->low_rank.rank;
}

void quantize_rows(const Worker& worker, const Matrix& like, const float* x, int64_t stride, int64_t begin, int64_t end, const QuantizedRows& out);
Activations activations_of(const Matrix& like, const QuantizedRows& rows, int64_t first);

// y[t · y_stride + r − begin] for rows [begin, end) of the weight and all rows of the inputs; begin a multiple of 16 for a packed one.
void multiply(const Worker& worker, const Weight& weight, const Inputs& inputs, int64_t begin, int64_t end, float* y, int64_t y_stride);

}  // namespace kbit::engine
