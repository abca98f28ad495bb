// Fast mode of a joint codebook: codes are decoded once and looked up for each component, up to four tokens straight from the planes, more by
// decoded tiles.
#include "avx2.h"
#include "dot.h"
#include "for_joint.h"
#include "tile.h"

namespace kbit::avx2 {
namespace {

// The components' bytes, signed, sixteen entries a register: entry 16·i + j of component c at of[c][i][j].
template <int K, int D>
struct Components {
  static constexpr int kRuns = K <= 4 ? 1 : 1 << (K - 4);
  alignas(32) uint8_t of[D][kRuns][32];
  Tables codes;  // every code stays itself

  explicit Components(const IntCodebook& book) {
    uint8_t value[256], itself[256];
    table_values(book, value);
    for (int code = 0; code < 256; ++code) itself[code] = static_cast<uint8_t>(code);
    fill_tables(codes, K, itself);
    for (int c = 0; c < D; ++c) {
      for (int i = 0; i < kRuns * 16; ++i) of[c][i / 16][i % 16] = of[c][i / 16][i % 16 + 16] = value[kJointEntries * c + i];
    }
  }

  // Bytes of component C for codes below 2^K; pshufb takes no notice of bits 4 … 6.
  template <int C>
  inline __attribute__((always_inline)) __m256i look_up(__m256i codes_) const {
    if constexpr (kRuns == 1) return avx2::look_up(load(of[C][0]), codes_);
    const __m256i last = _mm256_slli_epi16(codes_, 3);  // bit 4 to the top
    const __m256i low = _mm256_blendv_epi8(avx2::look_up(load(of[C][0]), codes_), avx2::look_up(load(of[C][kRuns > 1 ? 1 : 0]), codes_), last);
    if constexpr (kRuns <= 2) return low;
    constexpr int third = kRuns > 2 ? 2 : 0, fourth = kRuns > 2 ? 3 : 0;
    const __m256i high = _mm256_blendv_epi8(avx2::look_up(load(of[C][third]), codes_), avx2::look_up(load(of[C][fourth]), codes_), last);
    return _mm256_blendv_epi8(low, high, _mm256_slli_epi16(codes_, 2));
  }
};

template <int K, int D, int Tokens>
class JointDots {
 public:
  using Input = int8_t;

  inline __attribute__((always_inline)) JointDots(const Components<K, D>& components, const Matrix& m, int64_t tile) : components_(components) {
    block_pointers(m, tile, 0, planes_);
  }

  inline __attribute__((always_inline)) void add(const int8_t* const* x, int64_t block, int64_t count, int half, __m256i (&sum)[Tokens]) const {
    const uint8_t* at[3];
    for (int p = 0; p < plane_count(K); ++p) at[p] = planes_[p] + 64 * plane_width(K, p) * block + 32 * half;
    Emit emit{components_, x, block * kBlockInputs * D, sum};
    for (; count > 0; --count, emit.from += kBlockInputs * D) {
      if (half == 0) {
        ask_ahead<plane_width(K, 0)>(at[0]);
        if constexpr (plane_count(K) > 1) ask_ahead<plane_width(K, 1)>(at[1]);
      }
      decode_half<K, Output::codes>(at, components_.codes, emit);
      for (int p = 0; p < plane_count(K); ++p) at[p] += 64 * plane_width(K, p);
    }
  }

 private:
  struct Emit {
    const Components<K, D>& components;
    const int8_t* const* x;
    int64_t from;
    __m256i (&sum)[Tokens];

    template <int N>
    inline __attribute__((always_inline)) void at(int step, __m256i codes) {
      component<0>(step, codes), component<1>(step, codes);
      if constexpr (D > 2) component<2>(step, codes);
    }
    template <int C>
    inline __attribute__((always_inline)) void component(int step, __m256i codes) {
      const __m256i w = components.template look_up<C>(codes);
      for (int t = 0; t < Tokens; ++t) {
        sum[t] = _mm256_add_epi32(sum[t], widen(products<0>(w, four_inputs(x[t] + from + kBlockInputs * C + 4 * step))));
      }
    }
  };

  const Components<K, D>& components_;
  const uint8_t* planes_[3];
};

template <int K, int D>
struct Of {
  template <int Tokens>
  using Dots = JointDots<K, D, Tokens>;
};

// Writes half a k-block's components one after another, as those of D k-blocks.
template <int K, int D>
struct Store {
  const Components<K, D>& components;
  uint8_t* out;

  template <int N>
  inline __attribute__((always_inline)) void at(int step, __m256i codes) {
    component<0>(step, codes), component<1>(step, codes);
    if constexpr (D > 2) component<2>(step, codes);
  }
  template <int C>
  inline __attribute__((always_inline)) void component(int step, __m256i codes) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + kBlockInputs * kTileRows * C + 64 * step), components.template look_up<C>(codes));
  }
};

template <int K, int D>
void from_planes(const Matrix& m, const Components<K, D>& components, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin,
                 int64_t end, uint8_t* scratch) {
  auto* terms = reinterpret_cast<Term*>(scratch);
  for (int64_t t = 0; t < tokens; ++t) fill_terms(m, kOffset<0>, x, t, terms + t * x.groups);
  multiply_tiles<2, Of<K, D>::template Dots>(m, CodeLine{0, 1}, components, Inputs<int8_t>{x.q, x.stride, terms, x.groups}, tokens, begin, end, y, y_stride);
}

template <int K, int D>
void from_strips(const Matrix& m, const Components<K, D>& components, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin,
                 int64_t end, uint8_t* scratch) {
  const Matrix decoded = flat(m);
  uint8_t* strip = scratch + term_bytes(m);
  const int64_t step = tiles_per_strip(m);
  for (int64_t tile = begin; tile < end; tile += step) {
    const int64_t stop = tile + step < end ? tile + step : end;
    for (int64_t t = tile; t < stop; ++t) {
      uint8_t* out = strip + (t - tile) * decoded_bytes(m);
      Cursor<K> cursor(m, t);
      for (int64_t block = 0; block < m.kblocks; ++block, cursor.next(), out += D * kBlockInputs * kTileRows) {
        Store<K, D> low{components, out}, high{components, out + 32};
        cursor.template emit<Output::codes>(0, components.codes, low);
        cursor.template emit<Output::codes>(1, components.codes, high);
      }
    }
    multiply_decoded(decoded, x, tokens, scratch, strip, tile, stop, y, y_stride);
  }
}

}  // namespace

void joint(const Matrix& m, const Activations& x, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end, uint8_t* scratch) {
  static_assert(kFewTokens <= kTermTokens);
  for_joint(m.bits, m.dims, [&]<int K, int D>() {
    const Components<K, D> components(m.integer);
    if (tokens <= kFewTokens) from_planes<K, D>(m, components, x, tokens, y, y_stride, begin, end, scratch);
    else from_strips<K, D>(m, components, x, tokens, y, y_stride, begin, end, scratch);
  });
}

}  // namespace kbit::avx2
