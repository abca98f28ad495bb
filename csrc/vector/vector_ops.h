// What the engine computes outside of packed matrices: norms, rotations, activations, dense matrices, attention over pages.
//
// One source (vector/*.inl) is compiled once for each instruction set, on vectors of sixteen lanes; all compute the same bytes. Sizes need not
// be multiples of sixteen.
#pragma once

#include <cstdint>
#include <utility>

#include "kbit/engine.h"
#include "vector/trellis_ops.h"

namespace kbit {

// out[i] (+)= scale · cap(act(a[i] + bias_a[i]) · (b[i] + bias_b[i])); b null: no second factor; biases may be null; cap 0: none.
struct Epilogue {
  const float *a, *bias_a, *b, *bias_b;
  float* out;
  int64_t count;
  engine::Activation activation;
  float scale, softcap;
  bool accumulate;
};

// Queries of one kv head against one page. A query is one row's one head.
struct PageQueries {
  const float* const* q;     // [count] → [head_dim]
  float* const* state;       // [count] → maximum, sum, then the accumulated values [head_dim]
  const int32_t *low, *high; // [count]: positions [low, high) of the page are seen; none where low ≥ high
  const float* slope;        // [count] of ALiBi, or null
  const float* distance;     // [count]: the page's first position − the query's, for ALiBi
  const float* const* bias;  // [count] → [32] added to the page's scores, or null
  int64_t count;
  int64_t head_dim;
  int64_t used;              // positions of the page that are written
  float scale, softcap;
};

struct VectorOps {
  // out may be x.
  void (*norm)(const engine::Norm& norm, const float* x, int64_t count, float* out);
  void (*add)(const float* x, float factor, int64_t count, float* out);  // out += factor · x
  void (*scale)(float factor, int64_t count, float* x);
  void (*epilogue)(const Epilogue& e);
  // cos and sin [pairs] of a position, then a head's rotation by them.
  void (*rotate)(float* head, const float* cosines, const float* sines, int64_t pairs, bool interleaved);
  void (*softmax)(float* x, int64_t count);
  // Row of a dense matrix, widened: out (+)= factor · row.
  void (*dense_row)(const engine::Dense& m, int64_t row, float factor, bool accumulate, float* out);
  // y[t · y_stride + r − begin] = Σ_j m[r, j] · x[t · x_stride + j] for rows r in [begin, end).
  void (*dense)(const engine::Dense& m, const float* x, int64_t x_stride, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end);
  // In place: rotates a head before it is quantized; its own inverse.
  void (*hadamard)(float* x, int64_t count);
  // The rotation of a matrix's inputs in blocks (csrc/rotation.cc); out may be x. And the way back, in place.
  void (*rotate_inputs)(const float* x, int64_t count, int64_t block, float* out);
  void (*restore_inputs)(float* x, int64_t count, int64_t block);
  // Writes the key and the value of one position (0…31) of a block.
  void (*store_position)(engine::CacheFormat format, uint8_t* block, int64_t head_dim, int64_t position, const float* key, const float* value);
  // A block in fp32: keys [head_dim, 32], values [32, head_dim], positions below `used`. fp32 blocks are used where they lie.
  void (*expand)(engine::CacheFormat format, const uint8_t* block, int64_t head_dim, int64_t used, float* keys, float* values);
  void (*attend)(const PageQueries& queries, const float* keys, const float* values);
  // latent[k] = scale[k] · Σ_j V[k, j] · x[j] for k in [begin, end).
  void (*project)(const LowRank& part, int64_t inputs, const float* x, int64_t begin, int64_t end, float* latent);
  // y[t · y_stride + r] += what the parts beside the codes make of token t, for the rows r of tiles [begin, end). `turned` has room for
  // 16 · inputs floats where there are outliers. latent [tokens, latent_stride].
  void (*add_parts)(const Matrix& m, const float* x, int64_t x_stride, const float* latent, int64_t latent_stride, int64_t tokens, float* y,
                    int64_t y_stride, int64_t begin, int64_t end, float* turned);
  // Tiles [begin, end) of a pruned matrix as a plane of eight bits.
  void (*fill_pruned)(const Matrix& m, int64_t begin, int64_t end, uint8_t* planes);
  const TrellisOps* trellis;  // for the encoder
};

// Bytes of a block: one head's keys and values for the positions of a page.
static inline int64_t cache_block_bytes(engine::CacheFormat format, int64_t head_dim) {
  const int64_t numbers = 2 * head_dim * engine::kPagePositions;
  const int64_t lines = head_dim + engine::kPagePositions * ceil_div(head_dim, engine::kPagePositions);  // of 32 codes
  const int64_t scales = 2 * engine::kPagePositions * 4;  // one a position for keys, one for values
  switch (format) {
    case engine::CacheFormat::fp32: return numbers * 4;
    case engine::CacheFormat::fp16: return numbers * 2;
    case engine::CacheFormat::int8: return numbers + scales;
    case engine::CacheFormat::int4: return lines * 16 + scales;
    case engine::CacheFormat::int3: return lines * 12 + scales;
  }
  return 0;
}

extern const VectorOps scalar_vector_ops;
#if defined(__x86_64__)
extern const VectorOps avx2_vector_ops;
extern const VectorOps avx512_vector_ops;
#elif defined(__aarch64__)
extern const VectorOps neon_vector_ops;
#endif

}  // namespace kbit
