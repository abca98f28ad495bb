// Rows of a packed matrix as fp32: embeddings, and the way back to an ordinary checkpoint.
#include "half.h"
#include "kbit/kbit.h"
#include "kbit/threads.h"
#include "kernels.h"
#include "layout.h"

namespace kbit {
namespace {

// Input `input` of what a code stands for.
inline float level_of(const Matrix& m, unsigned code, int64_t input) {
  return m.levels[m.dims == 1 ? code : static_cast<unsigned>(kJointEntries * (input % m.dims)) + code];
}

// What the codes of row `index` say; with `add` beside what `out` holds.
void dequantize_codes(const Matrix& m, int64_t index, bool add, float* out) {
  const int64_t tile = index / kTileRows;
  const int row = static_cast<int>(index % kTileRows);
  int64_t group = -1;
  float scale = 0.0f, zero = 0.0f;
  const uint8_t* blocks[3];
  for (int64_t input = 0; input < m.inputs; ++input) {
    const int64_t i = m.dims == 1 ? input : input / m.dims;
    if (i % kBlockInputs == 0) block_pointers(m, tile, i / kBlockInputs, blocks);
    if (i / m.group_size != group) {
      group = i / m.group_size;
      scale = scale_at(m, tile, group, row);
      zero = m.zero_point != nullptr ? m.zero_point[(tile * m.groups + group) * kTileRows + row] : 0.0f;
    }
    const unsigned code = m.trellis ? trellis_index_at(m, tile, row, i) : code_at(blocks, m.bits, row, static_cast<int>(i % kBlockInputs));
    const float value = scale * (level_of(m, code, input) - zero);
    out[input] = add ? out[input] + value : value;
  }
}

void dequantize_row(const Matrix& m, int64_t index, float* out) {
  if (m.parts != nullptr && m.parts->pruned.bits != 0) pruned_row(m, index, out);
  else dequantize_codes(m, index, false, out);
  if (m.parts == nullptr) return;
  for (int64_t level = 0; level < m.parts->residual.count; ++level) dequantize_codes(*m.parts->residual.levels[level], index, true, out);
  add_part_rows(m, index, out);
}

}  // namespace

void dequantize_rows(const Matrix& m, const int64_t* ids, int64_t count, float* out, int threads) {
  if (count * m.inputs < 32768) threads = 1;
  const VectorOps& vector = *active_kernels().vector;
  threads::parallel_for(count, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      dequantize_row(m, ids[i], out + i * m.inputs);
      if (m.rotation != 0) vector.restore_inputs(out + i * m.inputs, m.inputs, m.rotation);
    }
  });
}

}  // namespace kbit
