// A matrix with what it holds beside its codes: products over tiles, and single rows in fp32.
#include <cstring>

#include "half.h"
#include "kernels.h"

namespace kbit {
namespace {

int64_t scale_bytes(const Matrix& m) { return m.scale_kind == ScaleKind::fp16 ? 2 : 1; }

// run(matrix of filled up tiles, first tile) for the tiles [begin, end) of a pruned matrix.
template <class Run>
void each_filled(const Kernels& kernels, const Matrix& m, int64_t begin, int64_t end, uint8_t* planes, Run&& run) {
  Matrix filled = m;
  filled.parts = nullptr;
  filled.planes = planes;
  const int64_t step = filled_tiles(m);
  for (int64_t tile = begin; tile < end; tile += step) {
    const int64_t last = tile + step < end ? tile + step : end, rows = m.rows - tile * kTileRows;
    kernels.vector->fill_pruned(m, tile, last, planes);
    filled.tiles = last - tile;
    filled.rows = rows < filled.tiles * kTileRows ? rows : filled.tiles * kTileRows;
    filled.scale = static_cast<const uint8_t*>(m.scale) + tile * m.groups * kTileRows * scale_bytes(m);
    if (m.scale_kind == ScaleKind::dq8) filled.super_scale = m.super_scale + tile;
    run(filled, tile);
  }
}

// run(level, tokens begin, their number, first tile, last tile, out, its stride) for pieces of the tiles [begin, end) of each residual level;
// what comes out is added to y.
template <class Run>
void add_levels(const Matrix& m, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, float* room, Run&& run) {
  const Residual& residual = m.parts->residual;
  const int64_t some = tokens < kResidualTokens ? tokens : kResidualTokens;
  const int64_t step = kResidualBytes / (some * kTileRows * static_cast<int64_t>(sizeof(float))), stride = step * kTileRows;
  for (int64_t level = 0; level < residual.count; ++level) {
    for (int64_t tile = begin; tile < end; tile += step) {
      const int64_t last = tile + step < end ? tile + step : end, row = tile * kTileRows;
      const int64_t rows = (last * kTileRows < m.rows ? last * kTileRows : m.rows) - row;
      for (int64_t t = 0; t < tokens; t += some) {
        const int64_t count = tokens - t < some ? tokens - t : some;
        run(*residual.levels[level], t, count, tile, last, room - row, stride);
        for (int64_t i = 0; i < count; ++i) {
          float* out = y + (t + i) * y_stride + row;
          for (int64_t r = 0; r < rows; ++r) out[r] += room[i * stride + r];
        }
      }
    }
  }
}

void add(const Kernels& kernels, const Matrix& m, const PartInputs& inputs, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end,
         uint8_t* scratch) {
  auto* turned = reinterpret_cast<float*>(scratch + kernel_scratch_bytes(m) + filled_bytes(m));
  kernels.vector->add_parts(m, inputs.x, inputs.x_stride, inputs.latent, inputs.latent_stride, tokens, y, y_stride, begin, end, turned);
}

float* residual_room(const Matrix& m, uint8_t* scratch) { return reinterpret_cast<float*>(scratch + kernel_scratch_bytes(m) + filled_bytes(m)); }

bool has_levels(const Matrix& m) { return m.parts != nullptr && m.parts->residual.count != 0; }

bool is_pruned(const Matrix& m) { return m.parts != nullptr && m.parts->pruned.bits != 0; }

}  // namespace

void run_tiles_fast(const Kernels& kernels, const Matrix& m, const Activations& x, const PartInputs& inputs, int64_t tokens, float* y, int64_t y_stride,
                    int64_t begin, int64_t end, uint8_t* scratch) {
  if (is_pruned(m)) {
    each_filled(kernels, m, begin, end, scratch + kernel_scratch_bytes(m), [&](const Matrix& filled, int64_t tile) {
      run_fast(kernels, filled, x, tokens, y + tile * kTileRows, y_stride, 0, filled.tiles, scratch);
    });
  } else {
    run_fast(kernels, m, x, tokens, y, y_stride, begin, end, scratch);
  }
  if (has_levels(m)) {
    add_levels(m, tokens, y, y_stride, begin, end, residual_room(m, scratch),
               [&](const Matrix& level, int64_t t, int64_t count, int64_t first, int64_t last, float* out, int64_t stride) {
                 const Activations some{x.q + t * x.stride, x.scale + t * x.groups, x.sum + t * x.groups, x.stride, x.groups};
                 run_fast(kernels, level, some, count, out, stride, first, last, scratch);
               });
  }
  if (m.parts != nullptr) add(kernels, m, inputs, tokens, y, y_stride, begin, end, scratch);
}

void run_tiles_exact(const Kernels& kernels, const Matrix& m, const PartInputs& inputs, int64_t tokens, float* y, int64_t y_stride, int64_t begin,
                     int64_t end, uint8_t* scratch) {
  if (is_pruned(m)) {
    each_filled(kernels, m, begin, end, scratch + kernel_scratch_bytes(m), [&](const Matrix& filled, int64_t tile) {
      kernels.exact(filled, inputs.x, tokens, y + tile * kTileRows, y_stride, 0, filled.tiles, scratch);
    });
  } else {
    kernels.exact(m, inputs.x, tokens, y, y_stride, begin, end, scratch);
  }
  if (has_levels(m)) {
    add_levels(m, tokens, y, y_stride, begin, end, residual_room(m, scratch),
               [&](const Matrix& level, int64_t t, int64_t count, int64_t first, int64_t last, float* out, int64_t stride) {
                 kernels.exact(level, inputs.x + t * m.inputs, count, out, stride, first, last, scratch);
               });
  }
  if (m.parts != nullptr) add(kernels, m, inputs, tokens, y, y_stride, begin, end, scratch);
}

void pruned_row(const Matrix& m, int64_t index, float* out) {
  const Pruned& p = m.parts->pruned;
  const int64_t tile = index / kTileRows, row = index % kTileRows;
  const uint8_t* mask = p.mask + tile * m.kblocks * 64;
  int64_t bit = tile * p.tile_bytes * 8;
  for (int64_t col = 0; col < m.cols; col += 4, mask += 8) {
    uint64_t kept;
    std::memcpy(&kept, mask, 8);
    for (int64_t j = 0; j < 4 && col + j < m.cols; ++j) {
      const uint64_t place = uint64_t{1} << (4 * row + j);
      out[col + j] = 0.0f;
      if ((kept & place) == 0) continue;
      const int64_t at = bit + __builtin_popcountll(kept & (place - 1)) * p.bits, byte = at >> 3;
      unsigned code = byte < p.bytes ? p.codes[byte] : 0u;
      if (byte + 1 < p.bytes) code |= static_cast<unsigned>(p.codes[byte + 1]) << 8;
      code = code >> (at & 7) & ((1u << p.bits) - 1u);
      code += static_cast<int>(code) >= p.inserted ? 1u : 0u;
      out[col + j] = scale_at(m, tile, (col + j) / m.group_size, row) * m.levels[code];
    }
    bit += __builtin_popcountll(kept) * p.bits;
  }
}

void add_part_rows(const Matrix& m, int64_t index, float* out) {
  const Parts& parts = *m.parts;
  const int64_t tile = index / kTileRows, row = index % kTileRows;
  const Columns& columns = parts.columns;
  for (int64_t c = 0; c < columns.count; ++c) out[columns.index[c]] += half_to_float(columns.values[(tile * columns.count + c) * kTileRows + row]);
  const LowRank& low = parts.low_rank;
  for (int64_t k = 0; k < low.rank; ++k) {
    const float left = low.scale[k] * static_cast<float>(low.left[(tile * low.rank + k) * kTileRows + row]);
    for (int64_t i = 0; i < m.inputs; ++i) out[i] += left * static_cast<float>(low.right[k * m.inputs + i]);
  }
  const Outliers& outliers = parts.outliers;
  if (outliers.count == 0) return;
  int64_t at = outliers.starts[tile];
  for (int64_t cell = 0; cell < outliers.cells; ++cell) {
    for (int64_t i = 0; i < outliers.counts[tile * outliers.cells + cell]; ++i, ++at) {
      const int place = outliers.places[at];
      if ((place & 15) == row) out[cell * kCellInputs + (place >> 4)] += half_to_float(outliers.values[at]);
    }
  }
}

}  // namespace kbit
