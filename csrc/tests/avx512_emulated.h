// AVX-512 in portable C++, for tests on machines without it: SIMDe where it knows an intrinsic, plain loops where it does not.
// Forced in front of csrc/avx512/*.cc by scripts/test-avx512-emulated (g++ -include); the sources themselves know nothing of it.
#pragma once

#include <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include <simde/x86/avx512.h>
#pragma GCC diagnostic pop

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulated {

template <class To, class From>
inline To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

struct Floats {
  float lane[16];
};
struct Ints {
  int32_t lane[16];
};

template <class Lane>
inline __m512 floats(Lane&& lane) {
  Floats out;
  for (int i = 0; i < 16; ++i) out.lane[i] = lane(i);
  return bits_of<__m512>(out);
}

template <class Lane>
inline __m512i ints(Lane&& lane) {
  Ints out;
  for (int i = 0; i < 16; ++i) out.lane[i] = lane(i);
  return bits_of<__m512i>(out);
}

inline __m512 load_floats(__mmask16 mask, const void* p) {
  return floats([&](int i) { return mask >> i & 1 ? static_cast<const float*>(p)[i] : 0.0f; });
}

inline __m512i load_ints(__mmask16 mask, const void* p) {
  return ints([&](int i) { return mask >> i & 1 ? static_cast<const int32_t*>(p)[i] : 0; });
}

inline void store_floats(void* p, __mmask16 mask, __m512 v) {
  const auto in = bits_of<Floats>(v);
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) static_cast<float*>(p)[i] = in.lane[i];
}

inline __m512 gather(__m512i index, const void* base, int scale) {
  const auto at = bits_of<Ints>(index);
  return floats([&](int i) {
    float value;
    std::memcpy(&value, static_cast<const char*>(base) + int64_t{at.lane[i]} * scale, 4);
    return value;
  });
}

template <class Byte>
inline __m512i widen(__m128i v) {
  struct Bytes {
    Byte lane[16];
  };
  const auto in = bits_of<Bytes>(v);
  return ints([&](int i) { return int32_t{in.lane[i]}; });
}

inline __m512 from_halves(__m256i v) {
  struct Halves {
    uint16_t lane[16];
  };
  const auto in = bits_of<Halves>(v);
  return floats([&](int i) { return _cvtsh_ss(in.lane[i]); });
}

inline __m512 to_floats(__m512i v) {
  const auto in = bits_of<Ints>(v);
  return floats([&](int i) { return static_cast<float>(in.lane[i]); });
}

inline __m512i to_ints(__m512 v) {
  const auto in = bits_of<Floats>(v);
  return ints([&](int i) { return static_cast<int32_t>(std::nearbyintf(in.lane[i])); });
}

inline float largest(__m512 v) {
  const auto in = bits_of<Floats>(v);
  float out = in.lane[0];
  for (int i = 1; i < 16; ++i) out = in.lane[i] > out ? in.lane[i] : out;
  return out;
}

inline int32_t largest_of_ints(__m512i v) {
  const auto in = bits_of<Ints>(v);
  int32_t out = in.lane[0];
  for (int i = 1; i < 16; ++i) out = in.lane[i] > out ? in.lane[i] : out;
  return out;
}

inline int32_t total_of_ints(__m512i v) {
  const auto in = bits_of<Ints>(v);
  uint32_t out = 0;
  for (int i = 0; i < 16; ++i) out += static_cast<uint32_t>(in.lane[i]);
  return static_cast<int32_t>(out);
}

inline int64_t total_of_longs(__m512i v) {
  struct Longs {
    uint64_t lane[8];
  };
  const auto in = bits_of<Longs>(v);
  uint64_t out = 0;
  for (int i = 0; i < 8; ++i) out += in.lane[i];
  return static_cast<int64_t>(out);
}

inline __m512i counts_of_bytes(__m512i v) {
  struct Bytes {
    uint8_t lane[64];
  };
  auto bytes = bits_of<Bytes>(v);
  for (uint8_t& byte : bytes.lane) byte = static_cast<uint8_t>(__builtin_popcount(byte));
  return bits_of<__m512i>(bytes);
}

}  // namespace emulated

#define _mm512_maskz_loadu_ps(mask, p) emulated::load_floats(mask, p)
#define _mm512_maskz_loadu_epi32(mask, p) emulated::load_ints(mask, p)
#define _mm512_mask_storeu_ps(p, mask, v) emulated::store_floats(p, mask, v)
#undef _mm512_i32gather_ps
#define _mm512_i32gather_ps(index, base, scale) emulated::gather(index, base, scale)
#define _mm512_cvtepu8_epi32(v) emulated::widen<uint8_t>(v)
#define _mm512_cvtepi8_epi32(v) emulated::widen<int8_t>(v)
#define _mm512_cvtph_ps(v) emulated::from_halves(v)
#define _mm512_cvtepi32_ps(v) emulated::to_floats(v)
#define _mm512_cvtps_epi32(v) emulated::to_ints(v)
#define _mm512_reduce_max_ps(v) emulated::largest(v)
#define _mm512_reduce_max_epi32(v) emulated::largest_of_ints(v)
#define _mm512_reduce_add_epi32(v) emulated::total_of_ints(v)
#define _mm512_reduce_add_epi64(v) emulated::total_of_longs(v)
#undef _mm512_popcnt_epi8
#define _mm512_popcnt_epi8(v) emulated::counts_of_bytes(v)
