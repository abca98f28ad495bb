// A block of the cache: one head's keys and values for the 32 positions of a page.
//
// Keys lie transposed, [head_dim, 32], so that a page's scores are sums of whole vectors; values lie [32, head_dim], so that their sum is one too.
//   fp32, fp16   keys, values
//   int8         keys, values, then a scale a position for keys [32] and for values [32]; a number is code · scale
//   int4         the same with two codes a byte: position (dimension) i in the low, i + half in the high nibble; codes 0 … 15 stand for −8 … 7
// Quantized heads are rotated (hadamard) before they come here, keys and queries alike, which spreads outliers over all dimensions.

constexpr int64_t kPositions = engine::kPagePositions;

// In place and its own inverse: the Walsh–Hadamard transform over the largest power of two that divides the size, scaled to keep lengths.
void hadamard(float* x, int64_t count) {
  const int64_t size = count & -count;
  for (int64_t begin = 0; begin < count; begin += size) {
    float* p = x + begin;
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
  scale(1.0f / __builtin_sqrtf(static_cast<float>(size)), count, x);
}

KBIT_INLINE float* scales_of(uint8_t* block, int64_t code_bytes) { return reinterpret_cast<float*>(block + code_bytes); }

// Scale that maps the largest magnitude to `top`; 0 for zeros, NaN where a number is not finite.
KBIT_INLINE float scale_for(const float* x, int64_t count, float top) {
  float largest_seen = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float magnitude = x[i] < 0 ? -x[i] : x[i];
    if (!(magnitude <= 3.4e38f)) return __builtin_nanf("");
    largest_seen = largest_seen < magnitude ? magnitude : largest_seen;
  }
  return largest_seen / top;
}

KBIT_INLINE int code_of(float value, float scale, int low, int high) {
  if (!(scale > 0.0f)) return 0;
  const float rounded = (value / scale + 12582912.0f) - 12582912.0f;
  return rounded < static_cast<float>(low) ? low : rounded > static_cast<float>(high) ? high : static_cast<int>(rounded);
}

void store_plain(engine::CacheFormat format, uint8_t* block, int64_t head_dim, int64_t position, const float* key, const float* value) {
  if (format == engine::CacheFormat::fp32) {
    auto* keys = reinterpret_cast<float*>(block);
    for (int64_t d = 0; d < head_dim; ++d) keys[d * kPositions + position] = key[d];
    float* values = keys + head_dim * kPositions;
    for (int64_t d = 0; d < head_dim; ++d) values[position * head_dim + d] = value[d];
    return;
  }
  auto* keys = reinterpret_cast<uint16_t*>(block);
  uint16_t* values = keys + head_dim * kPositions;
  for (int64_t d = 0; d < head_dim; ++d) keys[d * kPositions + position] = narrow_to_half(key[d]);
  for (int64_t d = 0; d < head_dim; ++d) values[position * head_dim + d] = narrow_to_half(value[d]);
}

void store_int8(uint8_t* block, int64_t head_dim, int64_t position, const float* key, const float* value) {
  auto* keys = reinterpret_cast<int8_t*>(block);
  int8_t* values = keys + head_dim * kPositions;
  float* scales = scales_of(block, 2 * head_dim * kPositions);
  const float key_scale = scale_for(key, head_dim, 127.0f), value_scale = scale_for(value, head_dim, 127.0f);
  for (int64_t d = 0; d < head_dim; ++d) keys[d * kPositions + position] = static_cast<int8_t>(code_of(key[d], key_scale, -127, 127));
  for (int64_t d = 0; d < head_dim; ++d) values[position * head_dim + d] = static_cast<int8_t>(code_of(value[d], value_scale, -127, 127));
  scales[position] = key_scale;
  scales[kPositions + position] = value_scale;
}

KBIT_INLINE void set_nibble(uint8_t* byte, bool high, int code) {
  const int shifted = (code + 8) << (high ? 4 : 0);
  *byte = static_cast<uint8_t>((*byte & (high ? 0x0f : 0xf0)) | shifted);
}

void store_int4(uint8_t* block, int64_t head_dim, int64_t position, const float* key, const float* value) {
  constexpr int64_t kHalf = kPositions / 2;
  uint8_t* values = block + head_dim * kHalf;
  float* scales = scales_of(block, head_dim * kPositions);
  const float key_scale = scale_for(key, head_dim, 7.0f), value_scale = scale_for(value, head_dim, 7.0f);
  for (int64_t d = 0; d < head_dim; ++d) {
    set_nibble(block + d * kHalf + position % kHalf, position >= kHalf, code_of(key[d], key_scale, -8, 7));
  }
  const int64_t half = head_dim / 2;
  for (int64_t d = 0; d < head_dim; ++d) set_nibble(values + position * half + d % half, d >= half, code_of(value[d], value_scale, -8, 7));
  scales[position] = key_scale;
  scales[kPositions + position] = value_scale;
}

void store_position(engine::CacheFormat format, uint8_t* block, int64_t head_dim, int64_t position, const float* key, const float* value) {
  switch (format) {
    case engine::CacheFormat::int8: return store_int8(block, head_dim, position, key, value);
    case engine::CacheFormat::int4: return store_int4(block, head_dim, position, key, value);
    default: return store_plain(format, block, head_dim, position, key, value);
  }
}

void expand_halves(const uint8_t* block, int64_t head_dim, int64_t used, float* keys, float* values) {
  const auto* from = reinterpret_cast<const uint16_t*>(block);
  for (int64_t i = 0; i < head_dim * kPositions; i += kLanes) store(keys + i, widen_halves(from + i));
  from += head_dim * kPositions;
  const int64_t count = used * head_dim, whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) store(values + i, widen_halves(from + i));
  // The rest ends inside the block, whose values are as many halves as positions of the page.
  for (int64_t i = whole; i < count; i += kLanes) {
    const int64_t begin = head_dim * kPositions - i < kLanes ? head_dim * kPositions - kLanes : i;
    store(values + begin, widen_halves(from + begin));
  }
}

void expand_int8(const uint8_t* block, int64_t head_dim, int64_t used, float* keys, float* values) {
  const auto* from = reinterpret_cast<const int8_t*>(block);
  const auto* scales = reinterpret_cast<const float*>(block + 2 * head_dim * kPositions);
  const auto widen_bytes = [](const int8_t* p) __attribute__((always_inline)) {
    return __builtin_convertvector(*reinterpret_cast<const SignedBytes*>(p), Floats);
  };
  const Floats scale_low = load(scales), scale_high = load(scales + kLanes);
  for (int64_t d = 0; d < head_dim; ++d) {
    store(keys + d * kPositions, widen_bytes(from + d * kPositions) * scale_low);
    store(keys + d * kPositions + kLanes, widen_bytes(from + d * kPositions + kLanes) * scale_high);
  }
  from += head_dim * kPositions;
  for (int64_t j = 0; j < used; ++j) {
    const float factor = scales[kPositions + j];
    for (int64_t d = 0; d < head_dim; ++d) values[j * head_dim + d] = static_cast<float>(from[j * head_dim + d]) * factor;
  }
}

void expand_int4(const uint8_t* block, int64_t head_dim, int64_t used, float* keys, float* values) {
  constexpr int64_t kHalf = kPositions / 2;
  const auto* scales = reinterpret_cast<const float*>(block + head_dim * kPositions);
  const Floats scale_low = load(scales), scale_high = load(scales + kLanes);
  for (int64_t d = 0; d < head_dim; ++d) {
    const Words codes = __builtin_convertvector(*reinterpret_cast<const Bytes*>(block + d * kHalf), Words);
    store(keys + d * kPositions, __builtin_convertvector(reinterpret_cast<Ints>(codes & 15) - 8, Floats) * scale_low);
    store(keys + d * kPositions + kLanes, __builtin_convertvector(reinterpret_cast<Ints>(codes >> 4) - 8, Floats) * scale_high);
  }
  const uint8_t* from = block + head_dim * kHalf;
  const int64_t half = head_dim / 2;
  for (int64_t j = 0; j < used; ++j) {
    const float factor = scales[kPositions + j];
    for (int64_t d = 0; d < half; ++d) {
      values[j * head_dim + d] = static_cast<float>((from[j * half + d] & 15) - 8) * factor;
      values[j * head_dim + half + d] = static_cast<float>((from[j * half + d] >> 4) - 8) * factor;
    }
  }
}

void expand(engine::CacheFormat format, const uint8_t* block, int64_t head_dim, int64_t used, float* keys, float* values) {
  switch (format) {
    case engine::CacheFormat::fp16: return expand_halves(block, head_dim, used, keys, values);
    case engine::CacheFormat::int8: return expand_int8(block, head_dim, used, keys, values);
    case engine::CacheFormat::int4: return expand_int4(block, head_dim, used, keys, values);
    case engine::CacheFormat::fp32: return;
  }
}
