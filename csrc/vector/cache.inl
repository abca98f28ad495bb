// A block of the cache: one head's keys and values for the 32 positions of a page.
//
// Keys lie transposed, [head_dim, 32], so that a page's scores are sums of whole vectors; values lie [32, head_dim], so that their sum is one too.
//   fp32, fp16   keys, values
//   int8         keys, values, then a scale a position for keys [32] and for values [32]; a number is code · scale
//   int4, int3   the same in fields of 4, or of 2 and of 1 bit; a number is (code + ½ − half the codes) · scale, so that no code is left over
// A line of 32 codes (keys: one dimension's positions) of width w takes 4·w bytes: code i is in byte i mod (4·w), field i div (4·w). Values are
// lines of 32 dimensions, lines_of(head_dim) a position, the last one not always full. Order: wide fields of keys, of values, then single bits.
// Quantized heads are rotated (hadamard) before they come here, keys and queries alike, which spreads outliers over all dimensions.

constexpr int64_t kPositions = engine::kPagePositions;

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

// Writes code i of a line in fields of `Width` bits.
template <int Width>
KBIT_INLINE void set_field(uint8_t* line, int64_t i, unsigned code) {
  uint8_t& byte = line[i % (4 * Width)];
  const unsigned shift = static_cast<unsigned>(i / (4 * Width)) * Width, mask = ((1u << Width) - 1u) << shift;
  byte = static_cast<uint8_t>((byte & ~mask) | (code << shift & mask));
}

// Codes below 2^Bits of a key or value: the number lies between (c − half)·scale and (c + 1 − half)·scale.
template <int Bits>
KBIT_INLINE unsigned midrise_code(float value, float scale) {
  constexpr int half = 1 << (Bits - 1);
  if (!(scale > 0.0f)) return half;
  const float place = __builtin_floorf(value / scale);
  return static_cast<unsigned>(half + (place < -half ? -half : place > half - 1 ? half - 1 : static_cast<int>(place)));
}

KBIT_INLINE int64_t lines_of(int64_t head_dim) { return (head_dim + kPositions - 1) / kPositions; }

template <int Bits>
void store_fields(uint8_t* block, int64_t head_dim, int64_t position, const float* key, const float* value) {
  constexpr int kWide = Bits == 3 ? 2 : 4;
  const int64_t lines = lines_of(head_dim);
  uint8_t *wide_keys = block, *wide_values = wide_keys + head_dim * 4 * kWide, *single_keys = wide_values + kPositions * lines * 4 * kWide;
  uint8_t* single_values = single_keys + head_dim * 4;
  float* scales = scales_of(block, (head_dim + kPositions * lines) * 4 * Bits);
  const float top = static_cast<float>(1 << (Bits - 1));
  const float key_scale = scale_for(key, head_dim, top), value_scale = scale_for(value, head_dim, top);
  for (int64_t d = 0; d < head_dim; ++d) {
    const unsigned k = midrise_code<Bits>(key[d], key_scale), v = midrise_code<Bits>(value[d], value_scale);
    const int64_t line = position * lines + d / kPositions;
    set_field<kWide>(wide_keys + d * 4 * kWide, position, Bits == 3 ? k >> 1 : k);
    set_field<kWide>(wide_values + line * 4 * kWide, d % kPositions, Bits == 3 ? v >> 1 : v);
    if constexpr (Bits == 3) set_field<1>(single_keys + d * 4, position, k & 1);
    if constexpr (Bits == 3) set_field<1>(single_values + line * 4, d % kPositions, v & 1);
  }
  scales[position] = key_scale;
  scales[kPositions + position] = value_scale;
}

void store_position(engine::CacheFormat format, uint8_t* block, int64_t head_dim, int64_t position, const float* key, const float* value) {
  switch (format) {
    case engine::CacheFormat::int8: return store_int8(block, head_dim, position, key, value);
    case engine::CacheFormat::int4: return store_fields<4>(block, head_dim, position, key, value);
    case engine::CacheFormat::int3: return store_fields<3>(block, head_dim, position, key, value);
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

// Codes of half a line, sixteen of them, in fields of `Width` bits.
template <int Width>
KBIT_INLINE Words half_line(const uint8_t* line, int half) {
  uint8_t bytes[kLanes];
  for (int64_t i = 0; i < kLanes; i += 4 * Width) __builtin_memcpy(bytes + i, line, 4 * Width);
  const Words wide = __builtin_convertvector(*reinterpret_cast<const Bytes*>(bytes), Words);
  Words shift{};
  for (int i = 0; i < kLanes; ++i) shift[i] = static_cast<uint32_t>(Width * (i / (4 * Width) + half * (kLanes / (4 * Width))));
  return wide >> shift & ((1u << Width) - 1u);
}

template <int Bits>
KBIT_INLINE Floats half_line_of(const uint8_t* wide, [[maybe_unused]] const uint8_t* single, int half) {
  Words codes;
  if constexpr (Bits == 3) codes = half_line<2>(wide, half) << 1 | half_line<1>(single, half);
  else codes = half_line<4>(wide, half);
  return __builtin_convertvector(reinterpret_cast<Ints>(codes), Floats) + (0.5f - static_cast<float>(1 << (Bits - 1)));
}

template <int Bits>
void expand_fields(const uint8_t* block, int64_t head_dim, int64_t used, float* keys, float* values) {
  constexpr int kWide = Bits == 3 ? 2 : 4;
  const int64_t lines = lines_of(head_dim);
  const uint8_t *wide = block, *single = block + (head_dim + kPositions * lines) * 4 * kWide;
  const auto* scales = reinterpret_cast<const float*>(block + (head_dim + kPositions * lines) * 4 * Bits);
  for (int half = 0; half < 2; ++half) {
    const Floats scale_of_half = load(scales + half * kLanes);
    for (int64_t d = 0; d < head_dim; ++d) {
      store(keys + d * kPositions + half * kLanes, half_line_of<Bits>(wide + d * 4 * kWide, single + d * 4, half) * scale_of_half);
    }
  }
  wide += head_dim * 4 * kWide;
  single += head_dim * 4;
  for (int64_t j = 0; j < used; ++j) {
    const float factor = scales[kPositions + j];
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      const int64_t line = j * lines + d / kPositions, n = head_dim - d < kLanes ? head_dim - d : kLanes;
      put(values + j * head_dim + d, half_line_of<Bits>(wide + line * 4 * kWide, single + line * 4, static_cast<int>(d / kLanes % 2)) * factor, n);
    }
  }
}

void expand(engine::CacheFormat format, const uint8_t* block, int64_t head_dim, int64_t used, float* keys, float* values) {
  switch (format) {
    case engine::CacheFormat::fp16: return expand_halves(block, head_dim, used, keys, values);
    case engine::CacheFormat::int8: return expand_int8(block, head_dim, used, keys, values);
    case engine::CacheFormat::int4: return expand_fields<4>(block, head_dim, used, keys, values);
    case engine::CacheFormat::int3: return expand_fields<3>(block, head_dim, used, keys, values);
    case engine::CacheFormat::fp32: return;
  }
}
