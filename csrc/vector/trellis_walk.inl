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
      if (sum > 0.0) size = static_cast<float>(sum / static_cast<double>(count));
    }
  }
};

// For each slot's successors: the least cost, and the slot it comes from.
template <int K>
KBIT_INLINE void choose(const TrellisWalk& w, const int32_t* states, int64_t slots, int64_t lane, const float* step) {
  constexpr int kSome = K < kNative ? K : kNative;
  typedef float Some __attribute__((vector_size(4 * kSome)));
  typedef int32_t SomeInts __attribute__((vector_size(4 * kSome)));
  const float *__restrict cost = w.cost, *__restrict line = w.lines + lane;
  float* __restrict next = w.next;
  int32_t* __restrict from = w.who;
  for (int64_t m = 0; m < slots; ++m) {
    const uint32_t s = static_cast<uint32_t>(states[m]), first = (s * K) & (kTrellisStates - 1);
    for (uint32_t to = first; to < first + K; to += kSome) {
      Some miss, least;
      SomeInts who;
      __builtin_memcpy(&miss, step + to, sizeof miss);
      __builtin_memcpy(&least, next + to, sizeof least);
      __builtin_memcpy(&who, from + to, sizeof who);
      miss = miss + line[m * kTrellisLine];
      const Some total = miss * miss + cost[s];
      const SomeInts less = total < least;
      least = less ? total : least;
      who = less ? SomeInts{} + static_cast<int32_t>(m) : who;
      __builtin_memcpy(next + to, &least, sizeof least);
      __builtin_memcpy(from + to, &who, sizeof who);
    }
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

// out = far + Σ_i errors[i] · factor[i], over the lanes of one line.
KBIT_INLINE void add_errors(const float* far, const float* errors, const float* factor, int64_t stride, float* out) {
  for (int64_t lane = 0; lane < kTrellisLine; lane += kNative) {
    NativeFloats sum = native(far + lane);
    for (int64_t i = 0; i < kTrellisLine; ++i) sum = sum + native(factor + i * stride + lane) * errors[i];
    put_native(out + lane, sum);
  }
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
          add_errors(far + line, errors, w.factor + older * w.stride + line, w.stride, w.far_next + row * w.stride + line);
        }
      }
      w.moved_root[n] = row;
    }
    exchange(w.far, w.far_next);
  } else {
    for (int64_t n = 0; n < slots; ++n) w.moved_root[n] = 0;
  }
  for (int64_t n = 0; n < slots; ++n) {
    add_errors(w.far + w.moved_root[n] * w.stride + col, w.lines + n * kTrellisLine, w.factor + last * w.stride + col, w.stride,
               w.moved + n * kTrellisLine);
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
  for (int64_t i = 0; i < kTrellisLine; ++i) w.lines[i] = w.carried[i];
  Reach reach{w.kept};
  for (int64_t col = 0; col < w.cols; ++col) {
    const int64_t lane = col % kTrellisLine;
    const float* factor = w.factor + col * w.stride + col - lane;
    for (int64_t s = 0; s < kTrellisStates; s += kNative) {
      const NativeFloats e = w.weights[col] - w.scale[col] * native(w.level + s);
      put_native(error + s, e);
      put_native(step + s, factor[lane] * e);
      put_native(w.next + s, NativeFloats{} + __builtin_huge_valf());
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
    uint16_t *__restrict parent = w.parent + col * kTrellisStates, *__restrict state = w.state + col * kTrellisStates;
    const float* __restrict lines = w.lines;
    const int32_t *__restrict who = w.who, *__restrict root = w.root;
    float* __restrict moved = w.moved;
    int32_t* __restrict moved_root = w.moved_root;
    for (int64_t n = 0; n < count; ++n) {
      const uint32_t s = static_cast<uint32_t>(kept[n]), m = static_cast<uint32_t>(who[s]);
      for (int64_t i = 0; i < kTrellisLine; i += kNative) {
        const NativeFloats sum = native(lines + m * kTrellisLine + i) + error[s] * native(factor + i);
        put_native(moved + n * kTrellisLine + i, sum);
      }
      moved[n * kTrellisLine + lane] = error[s];
      moved_root[n] = root[m];
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
