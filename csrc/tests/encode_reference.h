// The encoder of one group in plain scalar code, as kbit/encode.h and csrc/encode/search.h state it: stored scales by searching all
// values of their form, codes by bisecting the midpoints, sums one weight at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "kbit/encode.h"

namespace kbit::test {

// ---------------------------------------------------------------- stored numbers

// Value of a small float: `mantissa` bits, exponent bias `bias`.
inline double small_float(unsigned bits, int mantissa, int bias) {
  const int exponent = static_cast<int>(bits >> mantissa);
  const double fraction = std::ldexp(static_cast<double>(bits & ((1u << mantissa) - 1)), -mantissa);
  return exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1.0 + fraction, exponent - bias);
}

inline std::vector<double> all_values(unsigned last, int mantissa, int bias) {
  std::vector<double> values;
  for (unsigned bits = 0; bits <= last; ++bits) values.push_back(small_float(bits, mantissa, bias));
  return values;
}

inline const std::vector<double> kHalves = all_values(0x7bff, 10, 15), kE4M3 = all_values(0x7e, 3, 7);

// Index of the nearest value; the even one of a tie; the last for all beyond.
inline unsigned nearest(const std::vector<double>& values, double magnitude) {
  const auto above = static_cast<size_t>(std::lower_bound(values.begin(), values.end(), magnitude) - values.begin());
  if (above == values.size()) return static_cast<unsigned>(above - 1);
  if (above == 0) return 0;
  const double up = values[above] - magnitude, down = magnitude - values[above - 1];
  return static_cast<unsigned>(up < down || (up == down && above % 2 == 0) ? above : above - 1);
}

struct Stored {
  unsigned bits = 0;
  float value = 0.0f;
};

inline Stored stored_as(ScaleKind kind, float scale, float super_scale) {
  Stored s;
  if (kind != ScaleKind::fp16 && super_scale == 0.0f) return s;
  const float ratio = kind == ScaleKind::fp16 ? scale : scale / super_scale;
  if (kind == ScaleKind::dq8) {
    const float steps = std::nearbyint(std::min(127.0f, std::max(-127.0f, ratio)));
    s = {static_cast<unsigned>(static_cast<int>(steps)) & 0xffu, steps * super_scale};
  } else {
    const bool half = kind == ScaleKind::fp16, negative = std::signbit(ratio);
    const unsigned magnitude = nearest(half ? kHalves : kE4M3, std::fabs(static_cast<double>(ratio)));
    const auto value = static_cast<float>((half ? kHalves : kE4M3)[magnitude]) * (negative ? -1.0f : 1.0f);
    s = {magnitude | (negative ? half ? 0x8000u : 0x80u : 0u), half ? value : value * super_scale};
  }
  return s.value == 0.0f ? Stored{} : s;
}

// ---------------------------------------------------------------- one group

struct Problem {
  std::vector<float> levels;
  bool zero_points;
  ScaleKind kind;
  ScaleSearch search;
  float anchor;
  bool mirrored;
};

struct Group {
  std::vector<float> weights;
  std::vector<double> importance;
};

struct Answer {
  Stored scale;
  int zero = 0;
  double product = 0, square = 0, gain = 0;
};

inline int code_of(const Problem& p, float weight, float scale, int zero) {
  const float t = scale == 0.0f ? static_cast<float>(zero) : weight / scale + static_cast<float>(zero);
  size_t low = 0, high = p.levels.size() - 1;  // midpoints below t: between low and high
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if ((p.levels[middle] + p.levels[middle + 1]) * 0.5f < t)
      low = middle + 1;
    else
      high = middle;
  }
  return static_cast<int>(low);
}

inline float absmax_of(const Problem& p, const Group& g) {
  float low = 0.0f, high = 0.0f;
  for (const float w : g.weights) low = std::min(low, w), high = std::max(high, w);
  const int n = static_cast<int>(p.levels.size());
  if (p.anchor == 0.0f) return 0.0f;
  if (p.zero_points) return static_cast<float>((static_cast<double>(high) - static_cast<double>(low)) / (n - 1));
  const float extreme = high >= -low ? high : low;
  return p.mirrored ? std::fabs(extreme) / std::fabs(p.anchor) : extreme / p.anchor;
}

constexpr float kMultipliers[] = {1.3f, 1.15f, 1.05f, 0.95f, 0.9f, 0.85f, 0.75f, 0.65f, 0.55f, 0.45f, 0.35f, 0.25f};  // as csrc/encode/search.cc

// Eight lanes, as csrc/encode/search.h says.
inline Answer evaluate(const Problem& p, const Group& g, Stored scale, int zero) {
  Answer a{scale, zero};
  if (scale.value == 0.0f) return a;
  double product[8] = {}, square[8] = {};
  for (size_t j = 0; j < g.weights.size(); ++j) {
    const double v = p.levels[at(code_of(p, g.weights[j], scale.value, zero))] - static_cast<float>(zero);
    product[j % 8] += g.importance[j] * static_cast<double>(g.weights[j]) * v;
    square[j % 8] += g.importance[j] * (v * v);
  }
  const auto joined = [](const double* lane) {
    return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
  };
  a.product = joined(product), a.square = joined(square);
  const double s = scale.value;
  a.gain = s * (2.0 * a.product - s * a.square);
  return a;
}

inline Answer best_of(const Problem& p, const Group& g, float super_scale) {
  const float absmax = absmax_of(p, g);
  const int last = static_cast<int>(p.levels.size()) - 1;
  Answer start{stored_as(p.kind, absmax, super_scale)};
  if (p.zero_points && start.scale.value != 0.0f) {
    const double low = std::min(0.0f, *std::min_element(g.weights.begin(), g.weights.end()));
    start.zero = static_cast<int>(std::nearbyint(std::min<double>(last, std::max(0.0, -low / static_cast<double>(start.scale.value)))));
  }
  if (p.search == ScaleSearch::absmax) return start;
  Answer best = evaluate(p, g, start.scale, start.zero);
  const auto attempt = [&](float scale, int zero) {
    const Answer a = evaluate(p, g, stored_as(p.kind, scale, super_scale), zero);
    const bool gains = a.gain > best.gain;
    if (gains) best = a;
    return gains;
  };
  const auto sweep = [&](float from, int zero) {
    for (const float m : kMultipliers) attempt(from * m, zero);
  };
  bool antisymmetric = true;
  for (int i = 0; i <= last; ++i) antisymmetric = antisymmetric && p.levels[at(i)] == -p.levels[at(last - i)];
  sweep(absmax, start.zero);
  if (!p.zero_points && !antisymmetric) sweep(-absmax, start.zero);
  if (p.zero_points && start.zero > 0) sweep(absmax, start.zero - 1);
  if (p.zero_points && start.zero < last) sweep(absmax, start.zero + 1);
  for (int i = 0; i < 4 && best.square > 0.0; ++i)
    if (!attempt(static_cast<float>(best.product / best.square), best.zero)) break;
  return best;
}

}  // namespace kbit::test
