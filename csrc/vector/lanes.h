// Sixteen lanes of fp32 by the compilers' vector extension, and the few functions that everything else here is made of.
//
// For inclusion into one file an instruction set, inside its anonymous namespace: nothing here may be shared by files that are compiled with
// different options. Lanes are independent, sums run in a fixed order, and products are fused with sums where `fused` says so and nowhere
// else: every instruction set computes the same bytes.

constexpr int64_t kLanes = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef float LooseFloats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));
typedef int8_t SignedBytes __attribute__((vector_size(16), aligned(1), may_alias));

#define KBIT_INLINE static inline __attribute__((always_inline))

KBIT_INLINE Floats all(float v) { return Floats{v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v}; }
KBIT_INLINE Floats load(const float* p) { return *reinterpret_cast<const LooseFloats*>(p); }
KBIT_INLINE void store(float* p, Floats v) { *reinterpret_cast<LooseFloats*>(p) = v; }

// `count` < 16 numbers, and zeros.
KBIT_INLINE Floats load_some(const float* p, int64_t count) {
  Floats v{};
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
KBIT_INLINE void store_some(float* p, Floats v, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}

// a · b + c, rounded once.
KBIT_INLINE Floats fused(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__FMA__)
  union Halved {
    Floats whole;
    __m256 half[2];
  } x{a}, y{b}, z{c};
  for (int i = 0; i < 2; ++i) z.half[i] = _mm256_fmadd_ps(x.half[i], y.half[i], z.half[i]);
  return z.whole;
#elif defined(__ARM_NEON)
  union Quartered {
    Floats whole;
    float32x4_t quarter[4];
  } x{a}, y{b}, z{c};
  for (int i = 0; i < 4; ++i) z.quarter[i] = vfmaq_f32(z.quarter[i], x.quarter[i], y.quarter[i]);
  return z.whole;
#else
  for (int i = 0; i < kLanes; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#endif
}

KBIT_INLINE Floats bits_to_floats(Words w) { return reinterpret_cast<Floats>(w); }
KBIT_INLINE Words floats_to_bits(Floats f) { return reinterpret_cast<Words>(f); }

// Halves to floats: the processor's conversion, or exponent arithmetic (see half.h), which makes a NaN quiet as it does.
KBIT_INLINE Floats widen_halves(const uint16_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
  union Halved {
    Floats whole;
    __m256 half[2];
  } out;
  for (int i = 0; i < 2; ++i) out.half[i] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * i)));
  return out.whole;
#elif defined(__ARM_NEON)
  union Quartered {
    Floats whole;
    float32x4_t quarter[4];
  } out;
  for (int i = 0; i < 4; ++i) out.quarter[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return out.whole;
#else
  const Words wide = __builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words);
  const Words magnitude = (wide & 0x7fff) << 13;
  const Words special = reinterpret_cast<Words>(reinterpret_cast<Ints>(magnitude) >= 0x0f800000) & 0x7f800000;
  const Words quiet = reinterpret_cast<Words>(reinterpret_cast<Ints>(magnitude) > 0x0f800000) & 0x00400000;
  return bits_to_floats((wide & 0x8000) << 16 | floats_to_bits(bits_to_floats(magnitude) * 0x1p112f) | special | quiet);
#endif
}

KBIT_INLINE Floats widen_bfloats(const uint16_t* p) {
  return bits_to_floats(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16);
}

// Nearest half, ties to even; beyond the largest half: infinity.
KBIT_INLINE uint16_t narrow_to_half(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (bits < 0x38800000u) {  // subnormal: adding 0.5 rounds at its last place
    float magnitude;
    __builtin_memcpy(&magnitude, &bits, 4);
    const float rounded = magnitude + 0.5f;
    uint32_t out;
    __builtin_memcpy(&out, &rounded, 4);
    return static_cast<uint16_t>(sign | (out - 0x3f000000u));
  }
  bits += 0xfffu + (bits >> 13 & 1u);
  return static_cast<uint16_t>(sign | (bits - 0x38000000u) >> 13);
}

// The upper half of the first 2·`Width` lanes in place of the lower half.
template <int Width>
KBIT_INLINE Floats upper(Floats v) {
  static_assert(Width == 8 || Width == 4 || Width == 2 || Width == 1);
  if constexpr (Width == 8) return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
  if constexpr (Width == 4) return __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
  if constexpr (Width == 2) return __builtin_shufflevector(v, v, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
  if constexpr (Width == 1) return __builtin_shufflevector(v, v, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1);
}

// Sum of the lanes as a tree: halves onto each other.
KBIT_INLINE float sum(Floats v) {
  v = v + upper<8>(v);
  v = v + upper<4>(v);
  v = v + upper<2>(v);
  return (v + upper<1>(v))[0];
}

KBIT_INLINE Floats maximum(Floats a, Floats b) { return a < b ? b : a; }

KBIT_INLINE float largest(Floats v) {
  v = maximum(v, upper<8>(v));
  v = maximum(v, upper<4>(v));
  v = maximum(v, upper<2>(v));
  return maximum(v, upper<1>(v))[0];
}

KBIT_INLINE Floats minimum(Floats a, Floats b) { return b < a ? b : a; }

// exp by Cephes' polynomial, within 2 ulp; below −87.3 and above 88.3 as at those ends. NaN stays NaN.
KBIT_INLINE Floats exponential(Floats x) {
  x = x < all(-87.3f) ? all(-87.3f) : x;
  x = x > all(88.3f) ? all(88.3f) : x;
  const Floats rounder = all(12582912.0f);  // 1.5 · 2^23: what is added to it is rounded to an integer
  const Floats n = fused(x, all(1.44269504088896341f), rounder) - rounder;
  const Floats r = fused(n, all(2.12194440e-4f), fused(n, all(-0.693359375f), x));
  Floats p = all(1.9875691500e-4f);
  p = fused(p, r, all(1.3981999507e-3f));
  p = fused(p, r, all(8.3334519073e-3f));
  p = fused(p, r, all(4.1665795894e-2f));
  p = fused(p, r, all(1.6666665459e-1f));
  p = fused(p, r, all(5.0000001201e-1f));
  const Floats y = fused(p, r * r, r) + 1.0f;
  const Words exponent = reinterpret_cast<Words>(__builtin_convertvector(n, Ints) + 127) << 23;
  return y * bits_to_floats(exponent);
}

KBIT_INLINE Floats sigmoid(Floats x) { return all(1.0f) / (all(1.0f) + exponential(-x)); }

// tanh x = 1 − 2 / (exp(2x) + 1); near zero by its series, where that difference would cancel.
KBIT_INLINE Floats hyperbolic_tangent(Floats x) {
  const Floats square = x * x;
  const Floats series = x * (((square * (-17.0f / 315.0f) + 2.0f / 15.0f) * square - 1.0f / 3.0f) * square + 1.0f);
  const Floats direct = all(1.0f) - all(2.0f) / (exponential(x + x) + 1.0f);
  return square < all(0.015625f) ? series : direct;
}

// Horner's rule, highest power first.
template <int N>
KBIT_INLINE Floats polynomial(Floats x, const float (&coefficient)[N]) {
  Floats value = all(coefficient[0]);
  for (int i = 1; i < N; ++i) value = fused(value, x, all(coefficient[i]));
  return value;
}

// erf as a ratio of polynomials, minimax over [−4, 4] (as in XLA and Eigen): within 4e-7; beyond, 1 to that precision.
KBIT_INLINE Floats error_function(Floats x) {
  x = x < all(-4.0f) ? all(-4.0f) : x;
  x = x > all(4.0f) ? all(4.0f) : x;
  const Floats square = x * x;
  const Floats above = polynomial(square, {-2.72614225801306e-10f, 2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f,
                                           -7.34990630326855e-04f, -2.95459980854025e-03f, -1.60960333262415e-02f});
  const Floats below =
      polynomial(square, {-1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f, -1.42647390514189e-02f});
  return x * above / below;
}

// visit(offset, count): whole vectors with count 16, then what is left.
template <class Visit>
KBIT_INLINE void each(int64_t count, Visit&& visit) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) visit(i, kLanes);
  if (i < count) visit(i, count - i);
}
KBIT_INLINE Floats take(const float* p, int64_t count) { return count == kLanes ? load(p) : load_some(p, count); }
KBIT_INLINE void put(float* p, Floats v, int64_t count) {
  if (count == kLanes) store(p, v);
  else store_some(p, v, count);
}
