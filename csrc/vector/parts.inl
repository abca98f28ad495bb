// Parts beside the packed codes (kbit/parts.h): outliers, columns in 16 bits, low rank; and the codes of pruned matrices filled up.

KBIT_INLINE Floats widen_sixteen(const int8_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
#elif defined(__AVX2__)
  union Halved {
    Floats whole;
    __m256 half[2];
  } out;
  for (int i = 0; i < 2; ++i) out.half[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * i))));
  return out.whole;
#else
  return __builtin_convertvector(*reinterpret_cast<const SignedBytes*>(p), Floats);
#endif
}

KBIT_INLINE Floats widen_signed(const int8_t* p, int64_t n) {
  int8_t some[kLanes] = {};
  if (n < kLanes) {
    for (int64_t lane = 0; lane < n; ++lane) some[lane] = p[lane];
    p = some;
  }
  return widen_sixteen(p);
}

template <int Lines>
KBIT_INLINE void project_lines(const LowRank& part, int64_t inputs, const float* x, int64_t k, float* latent) {
  Floats total[Lines] = {};
  const int8_t* first = part.right + k * inputs;
  each(inputs, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
    const Floats v = take(x + i, n);
    for (int line = 0; line < Lines; ++line) total[line] = fused(widen_signed(first + line * inputs + i, n), v, total[line]);
  });
  for (int line = 0; line < Lines; ++line) latent[k + line] = part.scale[k + line] * sum(total[line]);
}

void project(const LowRank& part, int64_t inputs, const float* x, int64_t begin, int64_t end, float* latent) {
  int64_t k = begin;
  for (; k + 4 <= end; k += 4) project_lines<4>(part, inputs, x, k, latent);
  for (; k < end; ++k) project_lines<1>(part, inputs, x, k, latent);
}

// Columns and low rank of one tile for some tokens, a row a lane.
template <int Tokens>
KBIT_INLINE void dense_parts(const Parts& parts, int64_t tile, const float* x, int64_t x_stride, const float* latent, int64_t latent_stride, Floats* total) {
  for (int t = 0; t < Tokens; ++t) total[t] = Floats{};
  const Columns& columns = parts.columns;
  for (int64_t c = 0; c < columns.count; ++c) {
    const Floats value = widen_halves(columns.values + (tile * columns.count + c) * kLanes);
    for (int t = 0; t < Tokens; ++t) total[t] = fused(value, all(x[t * x_stride + columns.index[c]]), total[t]);
  }
  const LowRank& low = parts.low_rank;
  for (int64_t k = 0; k < low.rank; ++k) {
    const Floats value = widen_sixteen(low.left + (tile * low.rank + k) * kLanes);
    for (int t = 0; t < Tokens; ++t) total[t] = fused(value, all(latent[t * latent_stride + k]), total[t]);
  }
}

constexpr int64_t kSpread = 1024;  // outliers that are spread out at once

// visit(row of the tile, column, value) for each outlier of a tile. Most cells hold few: their first column is written four times, whatever
// their count, so that no branch depends on it.
template <class Visit>
KBIT_INLINE void each_outlier(const Outliers& outliers, int64_t tile, Visit&& visit) {
  const uint8_t* counts = outliers.counts + tile * outliers.cells;
  int64_t at = outliers.starts[tile], cell = 0;
  alignas(64) float values[kSpread];
  int32_t columns[kSpread + 4];
  while (cell < outliers.cells) {
    int64_t n = 0;
    for (; cell < outliers.cells && n + counts[cell] <= kSpread; ++cell) {
      const int64_t here = counts[cell];
      for (int i = 0; i < 4; ++i) columns[n + i] = static_cast<int32_t>(cell * kCellInputs);
      for (int64_t i = 4; i < here; ++i) columns[n + i] = static_cast<int32_t>(cell * kCellInputs);
      n += here;
    }
    for (int64_t i = 0; i < n; i += kLanes) {
      uint16_t some[kLanes] = {};
      const uint16_t* halves = outliers.values + at + i;
      if (at + i + kLanes > outliers.count) {
        for (int64_t lane = 0; at + i + lane < outliers.count; ++lane) some[lane] = halves[lane];
        halves = some;
      }
      store(values + i, widen_halves(halves));
    }
    const uint8_t* places = outliers.places + at;
    for (int64_t i = 0; i < n; ++i) visit(places[i] & 15, columns[i] + (places[i] >> 4), values[i]);
    at += n;
  }
}

void add_to_token(const Matrix& m, const float* x, const float* latent, float* y, int64_t begin, int64_t end) {
  const Parts& parts = *m.parts;
  for (int64_t tile = begin; tile < end; ++tile) {
    Floats total;
    dense_parts<1>(parts, tile, x, 0, latent, 0, &total);
    if (parts.outliers.count != 0) {
      alignas(64) float sums[kLanes];
      store(sums, total);
      each_outlier(parts.outliers, tile, [&](int row, int64_t col, float value) __attribute__((always_inline)) {
        sums[row] = __builtin_fmaf(value, x[col], sums[row]);
      });
      total = load(sums);
    }
    float* out = y + tile * kTileRows;
    const int64_t rows = m.rows - tile * kTileRows < kTileRows ? m.rows - tile * kTileRows : kTileRows;
    put(out, take(out, rows) + total, rows);
  }
}

// Up to sixteen tokens side by side: what a part holds is loaded once for several of them. `turned` [inputs, 16] is used where there are outliers.
void add_to_tokens(const Matrix& m, const float* x, int64_t x_stride, const float* latent, int64_t latent_stride, int64_t tokens, float* y,
                   int64_t y_stride, int64_t begin, int64_t end, float* turned) {
  const Parts& parts = *m.parts;
  const bool outliers = parts.outliers.count != 0;
  for (int64_t c = 0; outliers && c < m.inputs; ++c) {
    for (int64_t t = 0; t < kLanes; ++t) turned[c * kLanes + t] = t < tokens ? x[t * x_stride + c] : 0.0f;
  }
  for (int64_t tile = begin; tile < end; ++tile) {
    Floats side[kLanes] = {};
    int64_t t = 0;
    for (; t + 4 <= tokens; t += 4) dense_parts<4>(parts, tile, x + t * x_stride, x_stride, latent + t * latent_stride, latent_stride, side + t);
    for (; t < tokens; ++t) dense_parts<1>(parts, tile, x + t * x_stride, x_stride, latent + t * latent_stride, latent_stride, side + t);
    if (outliers) {
      Floats sums[kLanes];
      for (int row = 0; row < kTileRows; ++row) {
        for (int lane = 0; lane < kLanes; ++lane) sums[row][lane] = side[lane][row];
      }
      each_outlier(parts.outliers, tile, [&](int row, int64_t col, float value) __attribute__((always_inline)) {
        sums[row] = fused(all(value), load(turned + col * kLanes), sums[row]);
      });
      for (int row = 0; row < kTileRows; ++row) {
        for (int lane = 0; lane < kLanes; ++lane) side[lane][row] = sums[row][lane];
      }
    }
    const int64_t rows = m.rows - tile * kTileRows < kTileRows ? m.rows - tile * kTileRows : kTileRows;
    for (t = 0; t < tokens; ++t) {
      float* out = y + t * y_stride + tile * kTileRows;
      put(out, take(out, rows) + side[t], rows);
    }
  }
}

constexpr int64_t kTurnedTokens = 4;  // from here on tokens run side by side

void add_parts(const Matrix& m, const float* x, int64_t x_stride, const float* latent, int64_t latent_stride, int64_t tokens, float* y,
               int64_t y_stride, int64_t begin, int64_t end, float* turned) {
  if (!m.parts->adds()) return;
  for (int64_t t = 0; t < tokens;) {
    const int64_t n = tokens - t < kLanes ? tokens - t : kLanes;
    if (n >= kTurnedTokens) {
      add_to_tokens(m, x + t * x_stride, x_stride, latent + t * latent_stride, latent_stride, n, y + t * y_stride, y_stride, begin, end, turned);
      t += n;
    } else {
      add_to_token(m, x + t * x_stride, latent + t * latent_stride, y + t * y_stride, begin, end);
      ++t;
    }
  }
}

// Code at bit `at` of a stream; what lies behind its end is 0.
KBIT_INLINE unsigned stream_code(const uint8_t* codes, int64_t bytes, int64_t at, int bits) {
  const int64_t byte = at >> 3;
  unsigned pair = byte < bytes ? codes[byte] : 0u;
  if (byte + 1 < bytes) pair |= static_cast<unsigned>(codes[byte + 1]) << 8;
  return pair >> (at & 7) & ((1u << bits) - 1u);
}

#if defined(__AVX512VBMI2__)
// Sixty-four codes from bit `at` on: each eight bytes get the bytes that their eight codes lie in, and those are cut at the codes' bits.
struct StreamCodes {
  __m512i bytes, cuts, mask;
  explicit inline __attribute__((always_inline)) StreamCodes(int bits) {
    alignas(64) uint8_t place[64], cut[64];
    for (int i = 0; i < 64; ++i) {
      place[i] = static_cast<uint8_t>(i / 8 * bits + i % 8);
      cut[i] = static_cast<uint8_t>(i % 8 * bits);
    }
    bytes = _mm512_load_si512(place);
    cuts = _mm512_load_si512(cut);
    mask = _mm512_set1_epi8(static_cast<char>((1 << bits) - 1));
  }
  inline __attribute__((always_inline)) __m512i at(const uint8_t* codes, int64_t size, int64_t bit) const {
    const int64_t byte = bit >> 3, left = size - byte;
    const __mmask64 there = left >= 64 ? ~__mmask64{0} : left <= 0 ? __mmask64{0} : (__mmask64{1} << left) - 1;
    const __m512i raw = _mm512_maskz_loadu_epi8(there, codes + byte);
    const __m512i shifts = _mm512_add_epi8(cuts, _mm512_set1_epi8(static_cast<char>(bit & 7)));
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(shifts, _mm512_permutexvar_epi8(bytes, raw)), mask);
  }
};

void fill_pruned(const Matrix& m, int64_t begin, int64_t end, uint8_t* planes) {
  const Pruned& p = m.parts->pruned;
  const StreamCodes stream(p.bits);
  const __m512i zero = _mm512_set1_epi8(static_cast<char>(p.zero)), one = _mm512_set1_epi8(1);
  const __m512i inserted = _mm512_set1_epi8(static_cast<char>(p.inserted));
  const __mmask64 shifted = p.inserted < 256 ? ~__mmask64{0} : __mmask64{0};
  for (int64_t tile = begin; tile < end; ++tile) {
    int64_t bit = tile * p.tile_bytes * 8;
    const uint8_t* mask = p.mask + tile * m.kblocks * 64;
    for (int64_t step = 0; step < m.kblocks * 8; ++step, planes += 64) {
      uint64_t kept;
      __builtin_memcpy(&kept, mask + 8 * step, 8);
      __m512i codes = stream.at(p.codes, p.bytes, bit);
      codes = _mm512_mask_add_epi8(codes, _mm512_mask_cmpge_epu8_mask(shifted, codes, inserted), codes, one);
      _mm512_storeu_si512(planes, _mm512_mask_expand_epi8(zero, kept, codes));
      bit += __builtin_popcountll(kept) * p.bits;
    }
  }
}
#else
void fill_pruned(const Matrix& m, int64_t begin, int64_t end, uint8_t* planes) {
  const Pruned& p = m.parts->pruned;
  for (int64_t tile = begin; tile < end; ++tile) {
    int64_t bit = tile * p.tile_bytes * 8;
    const uint8_t* mask = p.mask + tile * m.kblocks * 64;
    for (int64_t byte = 0; byte < m.kblocks * 64; ++byte) {
      for (int i = 0; i < 8; ++i, ++planes) {
        *planes = p.zero;
        if ((mask[byte] >> i & 1) == 0) continue;
        const unsigned code = stream_code(p.codes, p.bytes, bit, p.bits);
        *planes = static_cast<uint8_t>(code + (static_cast<int>(code) >= p.inserted ? 1 : 0));
        bit += p.bits;
      }
    }
  }
}
#endif
