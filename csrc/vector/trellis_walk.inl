// The Viterbi algorithm where what a column aims at depends on the path behind it: each state that is kept carries the errors of its path.
//
// A slot's line belongs to the sixteen columns at work: lanes of columns that are done hold their errors, lanes of those to come what these
// errors add to them, so that one column costs one line a slot. When a line is full, its errors are carried into the next one by
// sixteen products. What they add to lines beyond that is worked out a line later, for the paths that are still alive: few by then.

template <class T>
KBIT_INLINE void exchange(T& a, T& b) {
  const T kept = a;
  a = b;
  b = kept;
}

// How far above the least cost a path may be and still be kept. What is kept is held near a number by what was kept before.
struct Reach {
  int64_t kept;
  float size = __builtin_huge_valf();

  void adapt(const float* cost, float least, const int32_t* states, int64_t count) {
    if (size < __builtin_huge_valf()) {
      size *= count > kept ? 0.9f : 1.05f;
    } else if (count > kept) {
      double sum = 0.0;
      for (int64_t n = 0; n < count; ++n) sum += static_cast<double>(cost[states[n]] - least);
      size = static_cast<float>(sum / static_cast<double>(count));
    }
  }
};

// For each slot's successors: the least cost, and the slot it comes from.
template <int K>
KBIT_INLINE void choose(const TrellisWalk& w, const int32_t* states, int64_t slots, int64_t lane, const float* step) {
  typedef float Some __attribute__((vector_size(4 * K)));
  typedef int32_t SomeInts __attribute__((vector_size(4 * K)));
  for (int64_t m = 0; m < slots; ++m) {
    const int64_t s = states[m], to = (s * K) & (kTrellisStates - 1);
    Some miss, least;
    SomeInts who;
    __builtin_memcpy(&miss, step + to, sizeof miss);
    __builtin_memcpy(&least, w.next + to, sizeof least);
    __builtin_memcpy(&who, w.who + to, sizeof who);
    miss = miss + w.lines[m * kTrellisLine + lane];
    const Some total = miss * miss + w.cost[s];
    const SomeInts less = total < least;
    least = less ? total : least;
    who = less ? SomeInts{} + static_cast<int32_t>(m) : who;
    __builtin_memcpy(w.next + to, &least, sizeof least);
    __builtin_memcpy(w.who + to, &who, sizeof who);
  }
}

// States whose cost is at most `most`, in order; how many.
KBIT_INLINE int64_t list_states(const float* cost, float most, int32_t* states) {
  int64_t count = 0;
#if defined(__AVX512F__)
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t s = 0; s < kTrellisStates; s += kLanes) {
    const __mmask16 kept = _mm512_cmp_ps_mask(_mm512_loadu_ps(cost + s), _mm512_set1_ps(most), _CMP_LE_OQ);
    const __m512i index = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(s)));
    _mm512_storeu_si512(states + count, _mm512_maskz_compress_epi32(kept, index));
    count += __builtin_popcount(kept);
  }
#else
  for (int64_t s = 0; s < kTrellisStates; ++s) {
    states[count] = static_cast<int32_t>(s);
    count += cost[s] <= most ? 1 : 0;
  }
#endif
  return count;
}

// out += Σ_i errors[i] · factor[i], lanes of one line.
KBIT_INLINE Floats add_errors(Floats out, const float* errors, const float* factor, int64_t stride) {
  for (int64_t i = 0; i < kTrellisLine; ++i) out += all(errors[i]) * load(factor + i * stride);
  return out;
}

// The slots' lines of the columns from `col` on, a line's first. Errors of the line before last become rows of `far`, one for each path that
// was alive at its end and has descendants yet.
void next_line(TrellisWalk& w, int64_t slots, int64_t col) {
  const int64_t last = col - kTrellisLine, older = last - kTrellisLine;
  if (older >= 0) {
    for (int64_t n = 0; n < kTrellisStates; ++n) w.row[n] = -1;
    int32_t rows = 0;
    for (int64_t n = 0; n < slots; ++n) {
      int32_t& row = w.row[w.root[n]];
      if (row < 0) {
        row = rows++;
        const float* far = w.far + w.before_root[w.root[n]] * w.stride;
        const float* errors = w.before + w.root[n] * kTrellisLine;
        for (int64_t line = col; line < w.stride; line += kTrellisLine) {
          store(w.far_next + row * w.stride + line, add_errors(load(far + line), errors, w.factor + older * w.stride + line, w.stride));
        }
      }
      w.moved_root[n] = row;
    }
    exchange(w.far, w.far_next);
  } else {
    for (int64_t n = 0; n < slots; ++n) w.moved_root[n] = 0;
  }
  for (int64_t n = 0; n < slots; ++n) {
    const Floats far = load(w.far + w.moved_root[n] * w.stride + col);
    store(w.moved + n * kTrellisLine, add_errors(far, w.lines + n * kTrellisLine, w.factor + last * w.stride + col, w.stride));
    w.root[n] = static_cast<int32_t>(n);
  }
  exchange(w.before, w.lines);
  exchange(w.lines, w.moved);
  exchange(w.before_root, w.moved_root);
}

template <int K>
KBIT_INLINE void walk_by(TrellisWalk& w) {
  alignas(64) float error[kTrellisStates], step[kTrellisStates];
  alignas(64) int32_t lists[2][kTrellisStates + kLanes];
  int32_t *states = lists[0], *kept = lists[1];
  int64_t slots = 1;
  states[0] = w.first;
  w.cost[w.first] = 0.0f;
  w.root[0] = 0;
  for (int64_t i = 0; i < w.stride; ++i) w.far[i] = w.carried[i];
  store(w.lines, load(w.carried));
  Reach reach{w.kept};
  for (int64_t col = 0; col < w.cols; ++col) {
    const int64_t lane = col % kTrellisLine;
    const float* factor = w.factor + col * w.stride + col - lane;
    for (int64_t s = 0; s < kTrellisStates; s += kLanes) {
      const Floats e = all(w.weights[col]) - all(w.scale[col]) * load(w.level + s);
      store(error + s, e);
      store(step + s, all(factor[lane]) * e);
      store(w.next + s, all(__builtin_huge_valf()));
    }
    choose<K>(w, states, slots, lane, step);
    float least = least_of_states(w.next);
    if (!(least < __builtin_huge_valf())) {  // beyond what a float holds: any path
      const int64_t any = states[0] * K & (kTrellisStates - 1);
      w.next[any] = least = 0.0f;
      w.who[any] = 0;
    }
    exchange(w.cost, w.next);
    if (col + 1 == w.cols) {
      int64_t s = 0;
      while (w.cost[s] != least) ++s;
      w.path[col] = static_cast<uint16_t>(s);
      for (int64_t m = w.who[s]; --col >= 0; m = w.parent[col * kTrellisStates + m]) w.path[col] = w.state[col * kTrellisStates + m];
      return;
    }
    const int64_t count = list_states(w.cost, reach.size < __builtin_huge_valf() ? least + reach.size : __FLT_MAX__, kept);
    reach.adapt(w.cost, least, kept, count);
    const Floats line = load(factor);
    const Ints here = Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} == static_cast<int32_t>(lane);
    uint16_t *parent = w.parent + col * kTrellisStates, *state = w.state + col * kTrellisStates;
    for (int64_t n = 0; n < count; ++n) {
      const int32_t s = kept[n], m = w.who[s];
      const Floats e = all(error[s]);
      store(w.moved + n * kTrellisLine, here ? e : load(w.lines + m * kTrellisLine) + e * line);
      w.moved_root[n] = w.root[m];
      parent[n] = static_cast<uint16_t>(m);
      state[n] = static_cast<uint16_t>(s);
    }
    exchange(w.lines, w.moved);
    exchange(w.root, w.moved_root);
    exchange(states, kept);
    slots = count;
    if (lane == kTrellisLine - 1) {
      next_line(w, slots, col + 1);
      lower_to_zero(w.cost);
    }
  }
}

void walk(TrellisWalk& w) {
  switch (w.bits) {
    case 1: return walk_by<2>(w);
    case 2: return walk_by<4>(w);
    case 3: return walk_by<8>(w);
    default: return walk_by<16>(w);
  }
}
