// Exact mode: fp32 levels, one product and one addition an input, eight rows in the lanes of a register.
#include <cstring>

#include "avx2.h"
#include "decode.h"
#include "for_bits.h"
#include "for_joint.h"
#include "scales.h"

namespace kbit::avx2 {
namespace {

struct Store {
  uint8_t* out;
  template <int N>
  inline __attribute__((always_inline)) void at(int step, __m256i codes) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 64 * step), codes);
  }
};

// fp32 levels of eight codes in 32-bit lanes: permutes within registers up to sixteen levels, a gather beyond.
template <int K>
struct Levels {
  __m256 low, high;
  const float* table;

  explicit Levels(const float* levels) : low(_mm256_loadu_ps(levels)), high(_mm256_loadu_ps(levels + 8)), table(levels) {}

  inline __m256 operator()(__m256i codes) const {
    if constexpr (K <= 3) return _mm256_permutevar8x32_ps(low, codes);
    if constexpr (K == 4) {
      const __m256 choice = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));  // bit 3 to the sign
      return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes), choice);
    }
    return _mm256_i32gather_ps(table, codes, 4);
  }
};

// A code stands for D inputs.
template <int K, int D, int Tokens>
void multiply_tile(const Matrix& m, const float* x, const uint8_t* strip, int64_t tile, int64_t token, float* y, int64_t y_stride) {
  const Levels<K> levels[3] = {Levels<K>(m.levels), Levels<K>(m.levels + (D > 1 ? kJointEntries : 0)),
                               Levels<K>(m.levels + (D > 2 ? 2 * kJointEntries : 0))};
  __m256 total[Tokens][2];
  for (int t = 0; t < Tokens; ++t) total[t][0] = total[t][1] = _mm256_setzero_ps();
  for (int64_t group = 0; group < m.groups; ++group) {
    const int64_t begin = group * m.group_size;
    const int64_t end = group + 1 == m.groups ? m.cols : begin + m.group_size;
    for (int half = 0; half < 2; ++half) {
      const __m256 zero = m.zero_point == nullptr ? _mm256_setzero_ps() : load_zeros(m, tile, group, half);
      __m256 dot[Tokens];
      for (int t = 0; t < Tokens; ++t) dot[t] = _mm256_setzero_ps();
      for (int64_t i = begin; i < end; ++i) {
        const __m256i four = load(strip + i / 4 * 64 + 32 * half);
        const __m256i codes = _mm256_and_si256(_mm256_srl_epi32(four, _mm_cvtsi32_si128(static_cast<int>(i % 4) * 8)), _mm256_set1_epi32(0xff));
        for (int d = 0; d < D; ++d) {
          if (D > 1 && D * i + d >= m.inputs) break;
          const __m256 level = _mm256_sub_ps(levels[d](codes), zero);
          for (int t = 0; t < Tokens; ++t) {
            dot[t] = _mm256_add_ps(dot[t], _mm256_mul_ps(level, _mm256_set1_ps(x[(token + t) * m.inputs + D * i + d])));
          }
        }
      }
      const __m256 scale = load_scales(m, tile, group, half);
      for (int t = 0; t < Tokens; ++t) total[t][half] = _mm256_add_ps(total[t][half], _mm256_mul_ps(scale, dot[t]));
    }
  }
  for (int t = 0; t < Tokens; ++t) store_rows(m, tile, y + (token + t) * y_stride, total[t][0], total[t][1]);
}

template <int K, int D>
void tiles(const Matrix& m, const Tables& tables, const float* x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end,
           uint8_t* strip) {
  for (int64_t tile = begin; tile < end; ++tile) {
    Cursor<K> cursor(m, tile);
    for (int64_t block = 0; block < m.kblocks; ++block, cursor.next()) {
      Store low{strip + block * kBlockInputs * kTileRows}, high{low.out + 32};
      cursor.template emit<Output::codes>(0, tables, low);
      cursor.template emit<Output::codes>(1, tables, high);
    }
    int64_t token = 0;
    for (; token + 4 <= tokens; token += 4) multiply_tile<K, D, 4>(m, x, strip, tile, token, y, y_stride);
    for (; token < tokens; ++token) multiply_tile<K, D, 1>(m, x, strip, tile, token, y, y_stride);
  }
}

}  // namespace

void exact(const Matrix& m, const float* x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  uint8_t value[256];
  for (int code = 0; code < 256; ++code) value[code] = static_cast<uint8_t>(code);
  Tables tables;
  fill_tables(tables, m.trellis ? 6 : m.bits, value);
  if (m.dims > 1) return for_joint(m.bits, m.dims, [&]<int K, int D>() { tiles<K, D>(m, tables, x, tokens, y, y_stride, begin, end, scratch); });
  for_kind(m, [&]<int K>() { tiles<K, 1>(m, tables, x, tokens, y, y_stride, begin, end, scratch); });
}

}  // namespace kbit::avx2
