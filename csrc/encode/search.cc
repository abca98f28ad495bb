#include "search.h"

#include <algorithm>

#include "span.h"

namespace kbit::encode_detail {
namespace {

constexpr float kMultipliers[] = {1.3f,  1.2f,  1.1f, 1.05f, 1.0f,  0.95f, 0.9f,  0.85f, 0.8f,  0.75f,
                                  0.7f, 0.65f, 0.6f, 0.55f, 0.5f,  0.45f, 0.4f,  0.35f, 0.3f,  0.25f};
constexpr int kRefits = 4;

struct Sums {
  double product;  // A
  double square;   // B
};

KBIT_CLONES Sums weigh(const GroupView& group, float zero_point) {
  typedef float Floats __attribute__((vector_size(16)));
  typedef double Doubles __attribute__((vector_size(32)));
  constexpr int kHalf = 4;
  Doubles product[2] = {}, square[2] = {};
  for (int64_t i = 0; i < group.count; i += 2 * kHalf)
    for (int half = 0; half < 2; ++half) {
      const int64_t at = i + half * kHalf;
      Floats narrow;
      Doubles weighted, importance;
      __builtin_memcpy(&narrow, group.values + at, sizeof narrow);
      __builtin_memcpy(&weighted, group.weighted + at, sizeof weighted);
      __builtin_memcpy(&importance, group.importance + at, sizeof importance);
      const Doubles value = __builtin_convertvector(narrow - zero_point, Doubles);
      product[half] += weighted * value;
      square[half] += importance * (value * value);
    }
  const Doubles products = product[0] + product[1], squares = square[0] + square[1];
  return {(products[0] + products[1]) + (products[2] + products[3]), (squares[0] + squares[1]) + (squares[2] + squares[3])};
}

struct Candidate {
  GroupScale choice;
  Sums sums{0.0, 0.0};
  double gain = 0.0;
};

Candidate evaluate(const GroupView& group, const SearchSpace& space, GroupScale choice) {
  Candidate candidate{choice};
  const float scale = choice.scale.value;
  if (scale == 0.0f) return candidate;
  const auto zero_point = static_cast<float>(choice.zero_point);
  divide_span(group.weights, group.count, scale, zero_point, group.scratch);
  space.grid.values(group.scratch, group.count, group.values);
  candidate.sums = weigh(group, zero_point);
  const double s = scale;
  candidate.gain = s * (2.0 * candidate.sums.product - s * candidate.sums.square);
  return candidate;
}

void sweep(const GroupView& group, const SearchSpace& space, float absmax, int zero_point, Candidate& best) {
  for (const float multiplier : kMultipliers) {
    const Candidate candidate = evaluate(group, space, {space.codec.round(absmax * multiplier), zero_point});
    if (candidate.gain > best.gain) best = candidate;
  }
}

void refit(const GroupView& group, const SearchSpace& space, Candidate& best) {
  for (int i = 0; i < kRefits && best.sums.square > 0.0; ++i) {
    const StoredScale scale = space.codec.round(static_cast<float>(best.sums.product / best.sums.square));
    const Candidate candidate = evaluate(group, space, {scale, best.choice.zero_point});
    if (!(candidate.gain > best.gain)) return;
    best = candidate;
  }
}

}  // namespace

GroupScale search_scale(const GroupView& group, const SearchSpace& space, float absmax, GroupScale start) {
  Candidate best = evaluate(group, space, start);
  sweep(group, space, absmax, start.zero_point, best);
  if (space.negate) sweep(group, space, -absmax, start.zero_point, best);
  if (start.zero_point > 0) sweep(group, space, absmax, start.zero_point - 1, best);
  if (start.zero_point < space.largest_zero_point) sweep(group, space, absmax, start.zero_point + 1, best);
  refit(group, space, best);
  return best.choice;
}

}  // namespace kbit::encode_detail
