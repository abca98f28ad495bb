// Matrices that are not packed: fp32, fp16 or bf16 rows, widened as they are read.

template <engine::DenseType T>
KBIT_INLINE Floats widen(const void* row, int64_t i, int64_t n) {
  if constexpr (T == engine::DenseType::fp32) {
    return take(static_cast<const float*>(row) + i, n);
  } else {
    const uint16_t* p = static_cast<const uint16_t*>(row) + i;
    uint16_t some[kLanes] = {};
    if (n < kLanes) {
      for (int64_t lane = 0; lane < n; ++lane) some[lane] = p[lane];
      p = some;
    }
    if constexpr (T == engine::DenseType::fp16) return widen_halves(p);
    else return widen_bfloats(p);
  }
}

KBIT_INLINE const void* row_of(const engine::Dense& m, int64_t row) {
  const int64_t size = m.type == engine::DenseType::fp32 ? 4 : 2;
  return static_cast<const uint8_t*>(m.data) + row * m.cols * size;
}

template <engine::DenseType T>
void dense_row_of(const engine::Dense& m, int64_t row, float factor, bool accumulate, float* out) {
  const void* from = row_of(m, row);
  each(m.cols, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
    const Floats v = widen<T>(from, i, n) * factor;
    put(out + i, accumulate ? take(out + i, n) + v : v, n);
  });
}

void dense_row(const engine::Dense& m, int64_t row, float factor, bool accumulate, float* out) {
  switch (m.type) {
    case engine::DenseType::fp32: return dense_row_of<engine::DenseType::fp32>(m, row, factor, accumulate, out);
    case engine::DenseType::fp16: return dense_row_of<engine::DenseType::fp16>(m, row, factor, accumulate, out);
    case engine::DenseType::bf16: return dense_row_of<engine::DenseType::bf16>(m, row, factor, accumulate, out);
  }
}

// Rows × tokens of sums in registers. Each sum is of two chains over the inputs, sixteen lanes each, for any block size.
template <engine::DenseType T, int Rows, int Tokens>
KBIT_INLINE void dense_block(const engine::Dense& m, const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t row, int64_t begin) {
  Floats total[Rows][Tokens][2] = {};
  const void* from[Rows];
  for (int r = 0; r < Rows; ++r) from[r] = row_of(m, row + r);
  const auto step = [&](int64_t i, int64_t n, int chain) __attribute__((always_inline)) {
    Floats w[Rows];
    for (int r = 0; r < Rows; ++r) w[r] = widen<T>(from[r], i, n);
    for (int t = 0; t < Tokens; ++t) {
      const Floats v = take(x + t * x_stride + i, n);
      for (int r = 0; r < Rows; ++r) total[r][t][chain] = fused(w[r], v, total[r][t][chain]);
    }
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= m.cols; i += 2 * kLanes) step(i, kLanes, 0), step(i + kLanes, kLanes, 1);
  if (i + kLanes <= m.cols) step(i, kLanes, 0), i += kLanes;
  if (i < m.cols) step(i, m.cols - i, 1);
  for (int t = 0; t < Tokens; ++t) {
    for (int r = 0; r < Rows; ++r) y[t * y_stride + row + r - begin] = sum(total[r][t][0] + total[r][t][1]);
  }
}

template <engine::DenseType T>
void dense_of(const engine::Dense& m, const float* x, int64_t x_stride, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end;) {
    const bool two = row + 2 <= end;
    int64_t t = 0;
    for (; t + 2 <= tokens; t += 2) {
      if (two) dense_block<T, 2, 2>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, row, begin);
      else dense_block<T, 1, 2>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, row, begin);
    }
    if (t < tokens) {
      if (two) dense_block<T, 2, 1>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, row, begin);
      else dense_block<T, 1, 1>(m, x + t * x_stride, x_stride, y + t * y_stride, y_stride, row, begin);
    }
    row += two ? 2 : 1;
  }
}

void dense(const engine::Dense& m, const float* x, int64_t x_stride, int64_t tokens, float* y, int64_t y_stride, int64_t begin, int64_t end) {
  switch (m.type) {
    case engine::DenseType::fp32: return dense_of<engine::DenseType::fp32>(m, x, x_stride, tokens, y, y_stride, begin, end);
    case engine::DenseType::fp16: return dense_of<engine::DenseType::fp16>(m, x, x_stride, tokens, y, y_stride, begin, end);
    case engine::DenseType::bf16: return dense_of<engine::DenseType::bf16>(m, x, x_stride, tokens, y, y_stride, begin, end);
  }
}
