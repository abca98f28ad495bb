// The Walsh–Hadamard transform, and the randomized rotation made of it (csrc/rotation.cc says what it is for).
//
// H of size n in Sylvester's order takes log2 n stages: stage h = 1, 2, 4 … n/2 replaces each pair (x[j], x[j + h]), j a multiple of 2h plus
// 0…h − 1, by (x[j] + x[j + h], x[j] − x[j + h]). Every sum is rounded once and stages go upward, so the bytes do not depend on how many
// pairs are worked on at once, nor on two stages being done in one pass. Stages within a vector exchange lanes.

#if defined(__AVX512F__)
constexpr int kNative = 16;  // lanes of a register
#elif defined(__AVX2__)
constexpr int kNative = 8;
#else
constexpr int kNative = 4;
#endif
typedef float NativeFloats __attribute__((vector_size(4 * kNative)));

// Lanes i and i xor `Half` exchanged.
template <int Half, int... Lane>
KBIT_INLINE NativeFloats exchanged(NativeFloats v, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(v, v, (Lane ^ Half)...);
}

// One stage within a vector: lane i becomes x[i] + x[i + half] in the lower half of a pair, x[i − half] − x[i] in the upper.
template <int Half>
KBIT_INLINE Floats stage(Floats v) {
  union Parts {
    Floats whole;
    NativeFloats part[kLanes / kNative];
  } from{v}, to;
  for (int i = 0; i < kLanes / kNative; ++i) {
    if constexpr (Half >= kNative) to.part[i] = from.part[i ^ (Half / kNative)];
    else to.part[i] = exchanged<Half>(from.part[i], std::make_integer_sequence<int, kNative>{});
  }
  constexpr uint32_t minus = 0x80000000u;
  const Words flip = {0, Half == 1 ? minus : 0, Half == 2 ? minus : 0, Half <= 2 ? minus : 0,
                      Half == 4 ? minus : 0, Half == 1 || Half == 4 ? minus : 0, Half == 2 || Half == 4 ? minus : 0, Half <= 4 ? minus : 0,
                      Half == 8 ? minus : 0, Half == 1 || Half == 8 ? minus : 0, Half == 2 || Half == 8 ? minus : 0, Half != 4 ? minus : 0,
                      Half >= 4 ? minus : 0, Half != 2 ? minus : 0, Half != 1 ? minus : 0, minus};
  return to.whole + bits_to_floats(floats_to_bits(v) ^ flip);
}

KBIT_INLINE Floats stages_within(Floats v) { return stage<8>(stage<4>(stage<2>(stage<1>(v)))); }

// Stages from 16 on, two at a time, of `size` ≥ 16 numbers, a power of two.
KBIT_INLINE void stages_across(float* p, int64_t size) {
  int64_t half = kLanes;
  for (; 2 * half < size; half *= 4) {
    for (int64_t i = 0; i < size; i += 4 * half) {
      for (int64_t j = i; j < i + half; j += kLanes) {
        const Floats a = load(p + j), b = load(p + j + half), c = load(p + j + 2 * half), d = load(p + j + 3 * half);
        const Floats ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
        store(p + j, ab + cd);
        store(p + j + half, a_b + c_d);
        store(p + j + 2 * half, ab - cd);
        store(p + j + 3 * half, a_b - c_d);
      }
    }
  }
  if (half < size) {
    for (int64_t j = 0; j < half; j += kLanes) {
      const Floats a = load(p + j), b = load(p + j + half);
      store(p + j, a + b);
      store(p + j + half, a - b);
    }
  }
}

KBIT_INLINE float orthonormal(int64_t size) { return 1.0f / __builtin_sqrtf(static_cast<float>(size)); }

// In place and its own inverse: the transform over the largest power of two that divides the size, scaled to keep lengths.
void hadamard(float* x, int64_t count) {
  const int64_t size = count & -count;
  for (int64_t begin = 0; begin < count; begin += size) {
    float* p = x + begin;
    if (size >= kLanes) {
      for (int64_t i = 0; i < size; i += kLanes) store(p + i, stages_within(load(p + i)));
      stages_across(p, size);
      continue;
    }
    for (int64_t half = 1; half < size; half *= 2) {
      for (int64_t i = 0; i < size; i += 2 * half) {
        for (int64_t j = i; j < i + half; ++j) {
          const float a = p[j], b = p[j + half];
          p[j] = a + b;
          p[j + half] = a - b;
        }
      }
    }
  }
  scale(orthonormal(size), count, x);
}

// Sign bits of sixteen inputs from `first` on: the top bit of the finalizer of MurmurHash3 (Appleby) over the input's index.
KBIT_INLINE Words sign_bits(int64_t first) {
  Words hash = Words{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + static_cast<uint32_t>(first);
  hash ^= hash >> 16;
  hash *= 0x85ebca6bu;
  hash ^= hash >> 13;
  hash *= 0xc2b2ae35u;
  return hash & 0x80000000u;  // the finalizer's last step leaves the top bit alone
}

KBIT_INLINE Floats signed_scale(int64_t first, float size) { return bits_to_floats(floats_to_bits(all(size)) ^ sign_bits(first)); }

// out = H (signs · x / √block), a block at a time; out may be x. block: a power of two from 16 on that divides count.
void rotate_inputs(const float* x, int64_t count, int64_t block, float* out) {
  const float size = orthonormal(block);
  for (int64_t begin = 0; begin < count; begin += block) {
    for (int64_t i = begin; i < begin + block; i += kLanes) store(out + i, stages_within(load(x + i) * signed_scale(i, size)));
    stages_across(out + begin, block);
  }
}

// The way back, in place: signs / √block · (H x).
void restore_inputs(float* x, int64_t count, int64_t block) {
  const float size = orthonormal(block);
  for (int64_t begin = 0; begin < count; begin += block) {
    for (int64_t i = begin; i < begin + block; i += kLanes) store(x + i, stages_within(load(x + i)));
    stages_across(x + begin, block);
    for (int64_t i = begin; i < begin + block; i += kLanes) store(x + i, load(x + i) * signed_scale(i, size));
  }
}
