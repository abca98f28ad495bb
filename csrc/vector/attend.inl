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

template <int Count>
void attend_some(const PageQueries& w, int64_t first, const float* keys, const float* values) {
  Floats score[Count][2] = {};
  for (int64_t d = 0; d < w.head_dim; ++d) {
    const Floats low = load(keys + d * kPositions), high = load(keys + d * kPositions + kLanes);
    for (int c = 0; c < Count; ++c) {
      const float q = w.q[first + c][d];
      score[c][0] += low * q;
      score[c][1] += high * q;
    }
  }
  Weights weights[Count];
  for (int c = 0; c < Count; ++c) weigh(w, first + c, score[c][0], score[c][1], weights[c]);
  each(w.head_dim, [&](int64_t d, int64_t n) __attribute__((always_inline)) {
    Floats acc[Count];
    for (int c = 0; c < Count; ++c) acc[c] = take(w.state[first + c] + 2 + d, n) * weights[c].correction;
    for (int64_t j = 0; j < w.used; ++j) {
      const Floats v = take(values + j * w.head_dim + d, n);
      for (int c = 0; c < Count; ++c) acc[c] += v * weights[c].p[j];
    }
    for (int c = 0; c < Count; ++c) put(w.state[first + c] + 2 + d, acc[c], n);
  });
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
