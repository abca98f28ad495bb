// y = x · Wᵀ over the active instruction set: splits tiles over threads, owns the scratch memory.
#include <cstdlib>
#include <memory>

#include "kbit/kbit.h"
#include "kbit/threads.h"
#include "kernels.h"

namespace kbit {
namespace {

struct Free {
  void operator()(uint8_t* p) const { std::free(p); }
};

// Grow-only, 64-byte aligned, one a thread: no allocation once a model has run its first step.
class Scratch {
 public:
  uint8_t* get(int64_t bytes) {
    if (bytes > size_) {
      size_ = ceil_div(bytes, 4096) * 4096;
      memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(4096, static_cast<size_t>(size_))));
      if (memory_ == nullptr) std::abort();
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<uint8_t, Free> memory_;
  int64_t size_ = 0;
};

thread_local Scratch tile_scratch;
thread_local Scratch activation_scratch;
thread_local Scratch rotation_scratch;
thread_local Scratch latent_scratch;

float* rotated_floats(int64_t count) { return reinterpret_cast<float*>(rotation_scratch.get(count * static_cast<int64_t>(sizeof(float)))); }

// Threads pay from about a quarter of a million multiply-adds on.
int worth(const Matrix& m, int64_t tokens, int threads) { return m.rows * m.inputs * tokens < (1 << 18) ? 1 : threads; }

const float* rotated_rows(const Matrix& m, const float* x, int64_t tokens, int threads) {
  float* rotated = rotated_floats(tokens * m.inputs);
  rotate_rows(x, tokens, m.inputs, m.rotation, rotated, threads);
  return rotated;
}

// What the parts beside the codes read: x as the codes see it, and V·x of all tokens.
PartInputs part_inputs(const Kernels& kernels, const Matrix& m, const float* x, int64_t tokens, int threads) {
  const int64_t rank = m.parts == nullptr ? 0 : m.parts->low_rank.rank;
  if (rank == 0) return {x, m.inputs, nullptr, 0};
  auto* latent = reinterpret_cast<float*>(latent_scratch.get(tokens * rank * 4));
  threads::parallel_for(tokens, tokens * m.inputs * rank < (1 << 16) ? 1 : threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) kernels.vector->project(m.parts->low_rank, m.inputs, x + t * m.inputs, 0, rank, latent + t * rank);
  });
  return {x, m.inputs, latent, rank};
}

}  // namespace

void matmul_fast(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int threads) {
  const Kernels& kernels = active_kernels();
  threads = worth(m, tokens, threads);
  const bool kept = m.rotation != 0 && m.parts != nullptr && m.parts->adds();  // what is added reads all rotated rows
  if (kept) x = rotated_rows(m, x, tokens, threads);
  const int64_t groups = input_groups(m), stride = input_bytes(m);
  const int64_t q_bytes = ceil_div(tokens * stride, 64) * 64;
  uint8_t* memory = activation_scratch.get(q_bytes + tokens * groups * 8 + 64);
  auto* q = reinterpret_cast<int8_t*>(memory);
  auto* scale = reinterpret_cast<float*>(memory + q_bytes);
  auto* sum = reinterpret_cast<int32_t*>(scale + tokens * groups);
  threads::parallel_for(tokens, tokens * m.inputs < (1 << 15) ? 1 : threads, [&](int64_t begin, int64_t end) {
    float* rotated = m.rotation == 0 || kept ? nullptr : rotated_floats(m.inputs);
    for (int64_t t = begin; t < end; ++t) {
      const float* row = x + t * m.inputs;
      if (rotated != nullptr) {
        kernels.vector->rotate_inputs(row, m.inputs, m.rotation, rotated);
        row = rotated;
      }
      quantize_input(kernels, m, row, q + t * stride, scale + t * groups, sum + t * groups);
    }
  });
  const Activations activations{q, scale, sum, stride, groups};
  const PartInputs inputs = part_inputs(kernels, m, x, tokens, threads);
  threads::parallel_for(m.tiles, threads, [&](int64_t begin, int64_t end) {
    run_tiles_fast(kernels, m, activations, inputs, tokens, y, y_stride, begin, end, tile_scratch.get(scratch_bytes(m)));
  });
}

void matmul_exact(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int threads) {
  const Kernels& kernels = active_kernels();
  if (m.rotation != 0) x = rotated_rows(m, x, tokens, threads);
  threads = worth(m, tokens, threads);
  const PartInputs inputs = part_inputs(kernels, m, x, tokens, threads);
  threads::parallel_for(m.tiles, threads, [&](int64_t begin, int64_t end) {
    run_tiles_exact(kernels, m, inputs, tokens, y, y_stride, begin, end, tile_scratch.get(scratch_bytes(m)));
  });
}

}  // namespace kbit
