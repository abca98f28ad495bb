// The Viterbi algorithm: the best path to each state, column by column. Vectors here are as wide as registers: wider ones are split, and
// comparisons of those one lane at a time.

typedef int32_t NativeInts __attribute__((vector_size(4 * kNative)));
typedef uint8_t NativeBytes __attribute__((vector_size(kNative)));

KBIT_INLINE NativeFloats native(const float* p) {
  NativeFloats v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
KBIT_INLINE void put_native(float* p, NativeFloats v) { __builtin_memcpy(p, &v, sizeof v); }
KBIT_INLINE NativeFloats lower(NativeFloats a, NativeFloats b) { return b < a ? b : a; }

// Lane i: p[i / K]. Reads a register.
template <int K, int... Lane>
KBIT_INLINE NativeFloats spread_lanes(NativeFloats v, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(v, v, (Lane / K)...);
}
template <int K>
KBIT_INLINE NativeFloats spread(const float* p) {
  if constexpr (K >= kNative) return NativeFloats{} + *p;
  else return spread_lanes<K>(native(p), std::make_integer_sequence<int, kNative>{});
}

KBIT_INLINE float least_of_states(const float* cost) {
  NativeFloats least[4] = {native(cost), native(cost + kNative), native(cost + 2 * kNative), native(cost + 3 * kNative)};
  for (int64_t s = 4 * kNative; s < kTrellisStates; s += 4 * kNative) {
    for (int i = 0; i < 4; ++i) least[i] = lower(least[i], native(cost + s + i * kNative));
  }
  const NativeFloats all_lanes = lower(lower(least[0], least[1]), lower(least[2], least[3]));
  float lowest = all_lanes[0];
  for (int i = 1; i < kNative; ++i) lowest = all_lanes[i] < lowest ? all_lanes[i] : lowest;
  return lowest;
}

KBIT_INLINE float lower_to_zero(float* cost) {
  const float least = least_of_states(cost);
  for (int64_t s = 0; s < kTrellisStates; s += kNative) put_native(cost + s, native(cost + s) - least);
  return least;
}

// best[q] = min over p of cost[p·Q + q], from[q] the first such p.
template <int K>
KBIT_INLINE void best_before(const float* cost, float* best, uint8_t* from) {
  constexpr int64_t count = kTrellisStates / K;
  for (int64_t q = 0; q < count; q += kNative) {
    NativeFloats least = native(cost + q);
    NativeInts which{};
    for (int p = 1; p < K; ++p) {
      const NativeFloats other = native(cost + p * count + q);
      const NativeInts less = other < least;
      least = less ? other : least;
      which = less ? NativeInts{} + p : which;
    }
    put_native(best + q, least);
    const NativeBytes bytes = __builtin_convertvector(which, NativeBytes);
    __builtin_memcpy(from + q, &bytes, sizeof bytes);
  }
}

template <int K>
KBIT_INLINE double pass_of(const TrellisPass& t) {
  constexpr int64_t count = kTrellisStates / K;
  alignas(64) float scaled[kTrellisStates], best[count + kNative] = {};
  for (int64_t s = 0; s < kTrellisStates; s += kNative) put_native(scaled + s, native(t.level + s) * t.scale);
  float* __restrict cost = t.cost;
  double total = 0.0;
  for (int64_t col = 0; col < t.count; ++col) {
    best_before<K>(cost, best, t.from + col * count);
    const float target = t.target[col], weight = t.weight == nullptr ? 1.0f : t.weight[col];
    for (int64_t s = 0; s < kTrellisStates; s += kNative) {
      const NativeFloats miss = target - native(scaled + s);
      put_native(cost + s, spread<K>(best + s / K) + weight * miss * miss);
    }
    if (col % kTrellisLine == kTrellisLine - 1) total += static_cast<double>(lower_to_zero(cost));
  }
  return total + static_cast<double>(lower_to_zero(cost));
}

double pass(const TrellisPass& t) {
  switch (t.bits) {
    case 1: return pass_of<2>(t);
    case 2: return pass_of<4>(t);
    case 3: return pass_of<8>(t);
    default: return pass_of<16>(t);
  }
}
