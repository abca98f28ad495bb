// Rows of activations: norms, sums, activations, rotations, softmax.

void norm(const engine::Norm& norm, const float* x, int64_t count, float* out) {
  Floats shift{};
  if (norm.kind == engine::Norm::Kind::layer) {
    Floats total{};
    each(count, [&](int64_t i, int64_t n) __attribute__((always_inline)) { total += take(x + i, n); });
    shift = all(sum(total) / static_cast<float>(count));
  }
  Floats squares{};
  each(count, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
    Floats v = take(x + i, n) - shift;
    if (n < kLanes) {
      for (int64_t lane = n; lane < kLanes; ++lane) v[lane] = 0.0f;
    }
    squares += v * v;
  });
  const Floats inverse = all(1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(count) + norm.eps));
  each(count, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
    Floats v = (take(x + i, n) - shift) * inverse;
    if (norm.weight != nullptr) v = v * take(norm.weight + i, n);
    if (norm.bias != nullptr) v = v + take(norm.bias + i, n);
    put(out + i, v, n);
  });
}

void add(const float* x, float factor, int64_t count, float* out) {
  each(count, [&](int64_t i, int64_t n) __attribute__((always_inline)) { put(out + i, take(out + i, n) + take(x + i, n) * factor, n); });
}

void scale(float factor, int64_t count, float* x) {
  each(count, [&](int64_t i, int64_t n) __attribute__((always_inline)) { put(x + i, take(x + i, n) * factor, n); });
}

template <engine::Activation A>
KBIT_INLINE Floats activate(Floats x) {
  using engine::Activation;
  if constexpr (A == Activation::relu) return x < all(0.0f) ? all(0.0f) : x;
  if constexpr (A == Activation::gelu) return x * 0.5f * (error_function(x * 0.70710678118654752f) + 1.0f);
  if constexpr (A == Activation::gelu_tanh) {
    const Floats inner = (x + x * x * x * 0.044715f) * 0.79788456080286536f;
    return x * 0.5f * (hyperbolic_tangent(inner) + 1.0f);
  }
  if constexpr (A == Activation::quick_gelu) return x * sigmoid(x * 1.702f);
  if constexpr (A == Activation::silu) return x * sigmoid(x);
  if constexpr (A == Activation::tanh) return hyperbolic_tangent(x);
  return x;
}

template <engine::Activation A>
void epilogue_of(const Epilogue& e) {
  each(e.count, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
    Floats v = take(e.a + i, n);
    if (e.bias_a != nullptr) v = v + take(e.bias_a + i, n);
    v = activate<A>(v);
    if (e.b != nullptr) {
      Floats factor = take(e.b + i, n);
      if (e.bias_b != nullptr) factor = factor + take(e.bias_b + i, n);
      v = v * factor;
    }
    if (e.softcap != 0.0f) v = hyperbolic_tangent(v / all(e.softcap)) * e.softcap;
    v = v * e.scale;
    if (e.accumulate) v = take(e.out + i, n) + v;
    put(e.out + i, v, n);
  });
}

void epilogue(const Epilogue& e) {
  using engine::Activation;
  switch (e.activation) {
    case Activation::none: return epilogue_of<Activation::none>(e);
    case Activation::relu: return epilogue_of<Activation::relu>(e);
    case Activation::gelu: return epilogue_of<Activation::gelu>(e);
    case Activation::gelu_tanh: return epilogue_of<Activation::gelu_tanh>(e);
    case Activation::quick_gelu: return epilogue_of<Activation::quick_gelu>(e);
    case Activation::silu: return epilogue_of<Activation::silu>(e);
    case Activation::tanh: return epilogue_of<Activation::tanh>(e);
  }
}

void rotate(float* head, const float* cosines, const float* sines, int64_t pairs, bool interleaved) {
  if (interleaved) {
    for (int64_t i = 0; i < pairs; ++i) {
      const float a = head[2 * i], b = head[2 * i + 1];
      head[2 * i] = a * cosines[i] - b * sines[i];
      head[2 * i + 1] = b * cosines[i] + a * sines[i];
    }
    return;
  }
  each(pairs, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
    const Floats a = take(head + i, n), b = take(head + pairs + i, n);
    const Floats c = take(cosines + i, n), s = take(sines + i, n);
    put(head + i, a * c - b * s, n);
    put(head + pairs + i, b * c + a * s, n);
  });
}

void softmax(float* x, int64_t count) {
  float top = x[0];
  for (int64_t i = 1; i < count; ++i) top = top < x[i] ? x[i] : top;
  Floats total{};
  each(count, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
    Floats v = exponential(take(x + i, n) - top);
    if (n < kLanes) {
      for (int64_t lane = n; lane < kLanes; ++lane) v[lane] = 0.0f;
    }
    put(x + i, v, n);
    total += v;
  });
  scale(1.0f / sum(total), count, x);
}
