// The Viterbi algorithm: the best path to each state, column by column.

// Lane i: p[i / K]. Reads up to a register beyond.
template <int K, int... Lane>
KBIT_INLINE NativeFloats spread_native(const float* p, std::integer_sequence<int, Lane...>) {
  typedef float Loose __attribute__((vector_size(4 * kNative), aligned(4), may_alias));
  const NativeFloats v = *reinterpret_cast<const Loose*>(p);
  return __builtin_shufflevector(v, v, (Lane / K)...);
}
template <int K>
KBIT_INLINE Floats spread(const float* p) {
  if constexpr (K == kLanes) return all(*p);
  union Parts {
    Floats whole;
    NativeFloats part[kLanes / kNative];
  } out;
  for (int i = 0; i < kLanes / kNative; ++i) out.part[i] = spread_native<K>(p + i * kNative / K, std::make_integer_sequence<int, kNative>{});
  return out.whole;
}

KBIT_INLINE float smallest(Floats v) {
  v = minimum(v, upper<8>(v));
  v = minimum(v, upper<4>(v));
  v = minimum(v, upper<2>(v));
  return minimum(v, upper<1>(v))[0];
}

KBIT_INLINE float least_of_states(const float* cost) {
  Floats least[4] = {load(cost), load(cost + 16), load(cost + 32), load(cost + 48)};
  for (int64_t s = 64; s < kTrellisStates; s += 64) {
    for (int i = 0; i < 4; ++i) least[i] = minimum(least[i], load(cost + s + 16 * i));
  }
  return smallest(minimum(minimum(least[0], least[1]), minimum(least[2], least[3])));
}

KBIT_INLINE float lower_to_zero(float* cost) {
  const float least = least_of_states(cost);
  for (int64_t s = 0; s < kTrellisStates; s += kLanes) store(cost + s, load(cost + s) - all(least));
  return least;
}

// best[q] = min over p of cost[p·Q + q], from[q] the first such p.
template <int K>
KBIT_INLINE void best_before(const float* cost, float* best, uint8_t* from) {
  constexpr int64_t count = kTrellisStates / K;
  for (int64_t q = 0; q < count; q += kLanes) {
    Floats least = load(cost + q);
    Ints which{};
    for (int p = 1; p < K; ++p) {
      const Floats other = load(cost + p * count + q);
      const Ints less = other < least;
      least = less ? other : least;
      which = less ? Ints{} + p : which;
    }
    store(best + q, least);
    *reinterpret_cast<Bytes*>(from + q) = __builtin_convertvector(which, Bytes);
  }
}

template <int K>
KBIT_INLINE double pass_of(const TrellisPass& t) {
  alignas(64) float scaled[kTrellisStates], best[kTrellisStates / K + kLanes];
  for (int64_t s = 0; s < kTrellisStates; s += kLanes) store(scaled + s, all(t.scale) * load(t.level + s));
  for (int i = 0; i < kLanes; ++i) best[kTrellisStates / K + i] = 0.0f;
  double total = 0.0;
  for (int64_t col = 0; col < t.count; ++col) {
    best_before<K>(t.cost, best, t.from + col * (kTrellisStates / K));
    const Floats target = all(t.target[col]), weight = all(t.weight == nullptr ? 1.0f : t.weight[col]);
    for (int64_t s = 0; s < kTrellisStates; s += kLanes) {
      const Floats miss = target - load(scaled + s);
      store(t.cost + s, spread<K>(best + s / K) + weight * miss * miss);
    }
    if (col % kTrellisLine == kTrellisLine - 1) total += lower_to_zero(t.cost);
  }
  return total + lower_to_zero(t.cost);
}

double pass(const TrellisPass& t) {
  switch (t.bits) {
    case 1: return pass_of<2>(t);
    case 2: return pass_of<4>(t);
    case 3: return pass_of<8>(t);
    default: return pass_of<16>(t);
  }
}
