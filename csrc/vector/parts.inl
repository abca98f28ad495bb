// Parts beside the packed codes (kbit/parts.h): outliers, columns in 16 bits, low rank; and the codes of pruned matrices filled up.

KBIT_INLINE Floats widen_signed(const int8_t* p, int64_t n) {
  int8_t some[kLanes] = {};
  if (n < kLanes) {
    for (int64_t lane = 0; lane < n; ++lane) some[lane] = p[lane];
    p = some;
  }
  return __builtin_convertvector(*reinterpret_cast<const SignedBytes*>(p), Floats);
}

void project(const LowRank& part, int64_t cols, const float* x, int64_t begin, int64_t end, float* latent) {
  for (int64_t k = begin; k < end; ++k) {
    const int8_t* line = part.right + k * cols;
    Floats total{};
    each(cols, [&](int64_t i, int64_t n) __attribute__((always_inline)) { total = fused(widen_signed(line + i, n), take(x + i, n), total); });
    latent[k] = part.scale[k] * sum(total);
  }
}

// Columns and low rank of one tile for one token, a row a lane.
KBIT_INLINE Floats dense_parts(const Parts& parts, int64_t tile, const float* x, const float* latent) {
  Floats total{};
  const Columns& columns = parts.columns;
  for (int64_t c = 0; c < columns.count; ++c) {
    total = fused(widen_halves(columns.values + (tile * columns.count + c) * kLanes), all(x[columns.index[c]]), total);
  }
  const LowRank& low = parts.low_rank;
  for (int64_t k = 0; k < low.rank; ++k) total = fused(widen_signed(low.left + (tile * low.rank + k) * kLanes, kLanes), all(latent[k]), total);
  return total;
}

// visit(row of the tile, column, value) for each outlier of a tile.
template <class Visit>
KBIT_INLINE void each_outlier(const Outliers& outliers, int64_t tile, Visit&& visit) {
  const uint8_t* counts = outliers.counts + tile * outliers.cells;
  int64_t at = outliers.starts[tile];
  alignas(64) float values[kLanes];
  for (int64_t cell = 0; cell < outliers.cells; ++cell) {
    for (int64_t left = counts[cell]; left > 0;) {
      const int64_t n = left < kLanes ? left : kLanes;
      uint16_t some[kLanes] = {};
      const uint16_t* halves = outliers.values + at;
      if (at + kLanes > outliers.count) {
        for (int64_t i = 0; i < n; ++i) some[i] = halves[i];
        halves = some;
      }
      store(values, widen_halves(halves));
      for (int64_t i = 0; i < n; ++i) {
        const int place = outliers.places[at + i];
        visit(place & 15, cell * kCellInputs + (place >> 4), values[i]);
      }
      at += n;
      left -= n;
    }
  }
}

void add_to_token(const Matrix& m, const float* x, const float* latent, float* y, int64_t begin, int64_t end) {
  const Parts& parts = *m.parts;
  for (int64_t tile = begin; tile < end; ++tile) {
    alignas(64) float sums[kLanes];
    store(sums, dense_parts(parts, tile, x, latent));
    if (parts.outliers.count != 0) {
      each_outlier(parts.outliers, tile, [&](int row, int64_t col, float value) __attribute__((always_inline)) {
        sums[row] = __builtin_fmaf(value, x[col], sums[row]);
      });
    }
    float* out = y + tile * kTileRows;
    const int64_t rows = m.rows - tile * kTileRows < kTileRows ? m.rows - tile * kTileRows : kTileRows;
    put(out, take(out, rows) + load(sums), rows);
  }
}

// Sixteen tokens side by side: an outlier is loaded once for all of them.
void add_to_tokens(const Matrix& m, const float* x, int64_t x_stride, const float* latent, int64_t latent_stride, int64_t tokens, float* y,
                   int64_t y_stride, int64_t begin, int64_t end, float* turned) {
  const Parts& parts = *m.parts;
  for (int64_t c = 0; c < m.cols; ++c) {
    for (int64_t t = 0; t < kLanes; ++t) turned[c * kLanes + t] = t < tokens ? x[t * x_stride + c] : 0.0f;
  }
  for (int64_t tile = begin; tile < end; ++tile) {
    Floats sums[kLanes] = {};
    for (int64_t t = 0; t < tokens; ++t) {
      const Floats side = dense_parts(parts, tile, x + t * x_stride, latent + t * latent_stride);
      for (int row = 0; row < kTileRows; ++row) sums[row][t] = side[row];
    }
    each_outlier(parts.outliers, tile, [&](int row, int64_t col, float value) __attribute__((always_inline)) {
      sums[row] = fused(all(value), load(turned + col * kLanes), sums[row]);
    });
    const int64_t rows = m.rows - tile * kTileRows < kTileRows ? m.rows - tile * kTileRows : kTileRows;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t row = 0; row < rows; ++row) y[t * y_stride + tile * kTileRows + row] += sums[row][t];
    }
  }
}

constexpr int64_t kTurnedTokens = 4;  // from here on tokens are worth to be turned

void add_parts(const Matrix& m, const float* x, int64_t x_stride, const float* latent, int64_t latent_stride, int64_t tokens, float* y,
               int64_t y_stride, int64_t begin, int64_t end, float* turned) {
  const Parts& parts = *m.parts;
  if (parts.outliers.count == 0 && parts.columns.count == 0 && parts.low_rank.rank == 0) return;
  for (int64_t t = 0; t < tokens;) {
    const int64_t n = tokens - t < kLanes ? tokens - t : kLanes;
    if (parts.outliers.count != 0 && n >= kTurnedTokens) {
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
