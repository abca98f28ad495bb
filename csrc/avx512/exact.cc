// Exact mode: fp32 levels, one product and one addition an input, sixteen rows in the lanes of a register.
#include "avx512.h"
#include "decode.h"
#include "for_bits.h"
#include "for_joint.h"
#include "scales.h"

namespace kbit::avx512 {
namespace {

// fp32 levels of the codes in the low bytes of 32-bit lanes. The permutes, good for up to 32 levels, ignore the bytes above.
template <int K>
struct Levels {
  __m512 low, high;
  const float* table;

  explicit inline __attribute__((always_inline)) Levels(const float* levels)
      : low(_mm512_loadu_ps(levels)), high(_mm512_loadu_ps(levels + 16)), table(levels) {}

  inline __attribute__((always_inline)) __m512 operator()(__m512i codes) const {
    if constexpr (K <= 4) return _mm512_permutexvar_ps(codes, low);
    if constexpr (K == 5) return _mm512_permutex2var_ps(low, codes, high);
    return _mm512_i32gather_ps(_mm512_and_si512(codes, _mm512_set1_epi32(0xff)), table, 4);
  }
};

// Tokens · Count independent sums, each over ascending inputs. A code stands for D of them.
template <int K, int D, int Tokens, int Count>
void multiply_tiles(const Matrix& m, const float* x, const uint8_t* strip, int64_t tile, int64_t token, float* y, int64_t y_stride) {
  const int64_t tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  const Levels<K> levels[3] = {Levels<K>(m.levels), Levels<K>(m.levels + (D > 1 ? kJointEntries : 0)),
                               Levels<K>(m.levels + (D > 2 ? 2 * kJointEntries : 0))};
  __m512 total[Tokens][Count];
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 4
    for (int c = 0; c < Count; ++c) total[t][c] = _mm512_setzero_ps();
  }
  for (int64_t group = 0; group < m.groups; ++group) {
    const int64_t begin = group * m.group_size;
    const int64_t end = group + 1 == m.groups ? m.cols : begin + m.group_size;
    __m512 zero[Count], dot[Tokens][Count];
#pragma GCC unroll 4
    for (int c = 0; c < Count; ++c) {
      zero[c] = m.zero_point == nullptr ? _mm512_setzero_ps() : load_zeros(m, tile + c, group);
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) dot[t][c] = _mm512_setzero_ps();
    }
    for (int64_t step = begin / 4; 4 * step < end; ++step) {
      __m512i codes[Count];
#pragma GCC unroll 4
      for (int c = 0; c < Count; ++c) codes[c] = load(strip + c * tile_bytes + 64 * step);
      const int64_t stop = 4 * step + 4 < end ? 4 * step + 4 : end;
      for (int64_t i = 4 * step; i < stop; ++i) {
#pragma GCC unroll 4
        for (int c = 0; c < Count; ++c) {
#pragma GCC unroll 3
          for (int d = 0; d < D; ++d) {
            if (D > 1 && D * i + d >= m.inputs) break;
            const __m512 level = _mm512_sub_ps(levels[d](codes[c]), zero[c]);
#pragma GCC unroll 8
            for (int t = 0; t < Tokens; ++t) {
              dot[t][c] = _mm512_add_ps(dot[t][c], _mm512_mul_ps(level, _mm512_set1_ps(x[(token + t) * m.inputs + D * i + d])));
            }
          }
          codes[c] = _mm512_srli_epi32(codes[c], 8);
        }
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < Count; ++c) {
      const __m512 scale = load_scales(m, tile + c, group);
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) total[t][c] = _mm512_add_ps(total[t][c], _mm512_mul_ps(scale, dot[t][c]));
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 4
    for (int c = 0; c < Count; ++c) store_rows(m, tile + c, y + (token + t) * y_stride, total[t][c]);
  }
}

template <int K, int D>
void multiply_strip(const Matrix& m, const float* x, int64_t tokens, const uint8_t* strip, int64_t begin, int64_t end, float* y, int64_t y_stride) {
  const int64_t tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  int64_t token = 0;
  for (; token + 8 <= tokens; token += 8) {
    for (int64_t tile = begin; tile < end; ++tile) multiply_tiles<K, D, 8, 1>(m, x, strip + (tile - begin) * tile_bytes, tile, token, y, y_stride);
  }
  for (; token < tokens; ++token) {
    int64_t tile = begin;
    for (; tile + 4 <= end; tile += 4) multiply_tiles<K, D, 1, 4>(m, x, strip + (tile - begin) * tile_bytes, tile, token, y, y_stride);
    for (; tile < end; ++tile) multiply_tiles<K, D, 1, 1>(m, x, strip + (tile - begin) * tile_bytes, tile, token, y, y_stride);
  }
}

template <int K, int D>
void tiles(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  const TablesOf<K> tables(kOrder<8, 0>.code);  // every code stays itself
  const int64_t step = tiles_per_strip(m), tile_bytes = m.kblocks * kBlockInputs * kTileRows;
  for (int64_t tile = begin; tile < end; tile += step) {
    const int64_t stop = tile + step < end ? tile + step : end;
    for (int64_t t = tile; t < stop; ++t) decode_tile<K, Output::codes>(m, tables, t, scratch + (t - tile) * tile_bytes);
    multiply_strip<K, D>(m, x, tokens, scratch, tile, stop, y, y_stride);
  }
}

}  // namespace

void exact(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  if (m.dims > 1) return for_joint(m.bits, m.dims, [&]<int K, int D>() { tiles<K, D>(m, x, tokens, y, y_stride, begin, end, scratch); });
  for_kind(m, [&]<int K>() { tiles<K, 1>(m, x, tokens, y, y_stride, begin, end, scratch); });
}

}  // namespace kbit::avx512
