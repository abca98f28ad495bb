// Attention of some queries over one page, with a running maximum and sum for each query (Milakov & Gimelshein 2018; FlashAttention).
//
// State of a query: maximum m, sum l, accumulated values acc [head_dim]. A page changes them to
//     m' = max(m, max s)   l' = l·exp(m − m') + Σ exp(s − m')   acc' = acc·exp(m − m') + Σ exp(s − m')·v
// positions in ascending order. Queries are independent: those worked on together only share the loads of keys and values.

struct Weights {
  alignas(64) float p[kPositions];
  float correction;
};

KBIT_INLINE Floats lane_numbers() { return Floats{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

// From scores to weights; updates m and l.
KBIT_INLINE void weigh(const PageQueries& w, int64_t i, Floats low_half, Floats high_half, Weights& out) {
  Floats s[2] = {low_half, high_half};
  const Floats low = all(static_cast<float>(w.low[i])), high = all(static_cast<float>(w.high[i]));
  Floats seen_largest = all(-__builtin_inff());
  for (int h = 0; h < 2; ++h) {
    const Floats position = lane_numbers() + static_cast<float>(h * kLanes);
    s[h] = s[h] * w.scale;
    if (w.softcap != 0.0f) s[h] = hyperbolic_tangent(s[h] / all(w.softcap)) * w.softcap;
    if (w.slope != nullptr) s[h] = s[h] + (position + w.distance[i]) * w.slope[i];
    if (w.bias != nullptr) s[h] = s[h] + load(w.bias[i] + h * kLanes);
    const Floats hidden = all(-__builtin_inff());
    s[h] = position < low ? hidden : s[h];
    s[h] = position < high ? s[h] : hidden;
    seen_largest = maximum(seen_largest, s[h]);
  }
  float* state = w.state[i];
  const float before = state[0], top = largest(seen_largest);
  const float now = before < top ? top : before;
  Floats total{};
  for (int h = 0; h < 2; ++h) {
    const Floats position = lane_numbers() + static_cast<float>(h * kLanes);
    Floats p = exponential(s[h] - now);
    p = position < low ? all(0.0f) : p;
    p = position < high ? p : all(0.0f);
    store(out.p + h * kLanes, p);
    total += p;
  }
  out.correction = exponential(all(before - now))[0];
  if (!(before > -__builtin_inff())) out.correction = 0.0f;
  state[0] = now;
  state[1] = state[1] * out.correction + sum(total);
}

// Adds the weighted values of `Chunks` times sixteen dimensions from d on.
template <int Count, int Chunks>
KBIT_INLINE void add_values(const PageQueries& w, int64_t first, const Weights* weights, const float* values, int64_t d) {
  Floats acc[Count][Chunks];
  for (int c = 0; c < Count; ++c) {
    for (int k = 0; k < Chunks; ++k) acc[c][k] = load(w.state[first + c] + 2 + d + k * kLanes) * weights[c].correction;
  }
  for (int64_t j = 0; j < w.used; ++j) {
    Floats v[Chunks];
    for (int k = 0; k < Chunks; ++k) v[k] = load(values + j * w.head_dim + d + k * kLanes);
    for (int c = 0; c < Count; ++c) {
      const Floats p = all(weights[c].p[j]);
      for (int k = 0; k < Chunks; ++k) acc[c][k] = fused(v[k], p, acc[c][k]);
    }
  }
  for (int c = 0; c < Count; ++c) {
    for (int k = 0; k < Chunks; ++k) store(w.state[first + c] + 2 + d + k * kLanes, acc[c][k]);
  }
}

// The same for the last, fewer than sixteen dimensions.
template <int Count>
KBIT_INLINE void add_last_values(const PageQueries& w, int64_t first, const Weights* weights, const float* values, int64_t d) {
  for (int c = 0; c < Count; ++c) {
    float* out = w.state[first + c] + 2;
    for (int64_t i = d; i < w.head_dim; ++i) {
      float sum_of_values = out[i] * weights[c].correction;
      for (int64_t j = 0; j < w.used; ++j) sum_of_values = __builtin_fmaf(values[j * w.head_dim + i], weights[c].p[j], sum_of_values);
      out[i] = sum_of_values;
    }
  }
}

template <int Count>
void attend_some(const PageQueries& w, int64_t first, const float* keys, const float* values) {
  Floats score[Count][2] = {};
  for (int64_t d = 0; d < w.head_dim; ++d) {
    const Floats low = load(keys + d * kPositions), high = load(keys + d * kPositions + kLanes);
    for (int c = 0; c < Count; ++c) {
      const Floats q = all(w.q[first + c][d]);
      score[c][0] = fused(low, q, score[c][0]);
      score[c][1] = fused(high, q, score[c][1]);
    }
  }
  Weights weights[Count];
  for (int c = 0; c < Count; ++c) weigh(w, first + c, score[c][0], score[c][1], weights[c]);
  int64_t d = 0;
  for (; d + 2 * kLanes <= w.head_dim; d += 2 * kLanes) add_values<Count, 2>(w, first, weights, values, d);
  for (; d + kLanes <= w.head_dim; d += kLanes) add_values<Count, 1>(w, first, weights, values, d);
  if (d < w.head_dim) add_last_values<Count>(w, first, weights, values, d);
}

void attend(const PageQueries& w, const float* keys, const float* values) {
  int64_t i = 0;
  for (; i + 4 <= w.count; i += 4) attend_some<4>(w, i, keys, values);
  switch (w.count - i) {
    case 1: return attend_some<1>(w, i, keys, values);
    case 2: return attend_some<2>(w, i, keys, values);
    case 3: return attend_some<3>(w, i, keys, values);
    default: return;
  }
}
