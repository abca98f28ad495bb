// The searches of the trellis encoder on every instruction set that this processor runs against plain ones, written here from the words
// of kbit/trellis.h: the same paths and the same costs to the last bit, over every number of bits, odd sizes and any number of states kept.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "check.h"
#include "kernels.h"
#include "tests/guarded.h"
#include "trellis.h"
#include "vector/trellis_ops.h"

namespace {

using kbit::kTrellisLine;
using kbit::kTrellisStates;
using kbit::test::at;
using kbit::test::expect;
using kbit::test::Guarded;

std::mt19937 rng(5);
constexpr int64_t kCols[] = {1, 2, 15, 16, 17, 31, 32, 33, 47, 50, 80};

float normal() { return std::normal_distribution<float>()(rng); }

void fill(Guarded<float>& x, int64_t count, float low, float high) {
  x.resize(count);
  for (float& v : x) v = std::uniform_real_distribution<float>(low, high)(rng);
}

void fill_normal(Guarded<float>& x, int64_t count) {
  x.resize(count);
  for (float& v : x) v = normal();
}

// Levels of the states of a trellis over 64 ascending levels.
void fill_levels(Guarded<float>& level, int bits) {
  level.resize(kTrellisStates);
  for (int64_t s = 0; s < kTrellisStates; ++s) level.begin()[s] = (static_cast<float>(kbit::trellis_index(static_cast<uint32_t>(s), bits)) - 31.5f) / 16;
}

std::vector<const kbit::Kernels*> tables() {
  const kbit::Kernels* all[8];
  return {all, all + kbit::available_kernels(all, 8)};
}

// The Viterbi algorithm, state by state.
double plain_pass(const kbit::TrellisPass& t) {
  const int64_t branches = int64_t{1} << t.bits, count = kTrellisStates / branches;
  double total = 0.0;
  const auto lower = [&] {
    const float least = *std::min_element(t.cost, t.cost + kTrellisStates);
    for (int64_t s = 0; s < kTrellisStates; ++s) t.cost[s] -= least;
    total += least;
  };
  for (int64_t col = 0; col < t.count; ++col) {
    std::vector<float> cost(t.cost, t.cost + kTrellisStates);
    for (int64_t s = 0; s < kTrellisStates; ++s) {
      const int64_t q = s / branches;
      int64_t best = 0;
      for (int64_t p = 1; p < branches; ++p) best = cost[at(p * count + q)] < cost[at(best * count + q)] ? p : best;
      const float miss = t.target[col] - t.scale * t.level[s];
      t.cost[s] = cost[at(best * count + q)] + (t.weight == nullptr ? 1.0f : t.weight[col]) * miss * miss;
      t.from[col * count + q] = static_cast<uint8_t>(best);
    }
    if (col % kTrellisLine == kTrellisLine - 1) lower();
  }
  lower();
  return total;
}

void test_pass(int bits, int64_t cols, bool weighed, bool anywhere) {
  Guarded<float> level, target, weight;
  fill_levels(level, bits);
  fill_normal(target, cols);
  fill(weight, cols, 0.1f, 3.0f);
  const auto run = [&](double (*pass)(const kbit::TrellisPass&), Guarded<float>& cost, Guarded<uint8_t>& from) {
    cost.resize(kTrellisStates);
    from.resize(cols * (kTrellisStates >> bits));
    std::fill(cost.begin(), cost.end(), anywhere ? 0.0f : HUGE_VALF);
    cost.begin()[0] = 0.0f;
    return pass({bits, level.begin(), target.begin(), weighed ? weight.begin() : nullptr, cols, 1.1f, cost.begin(), from.begin()});
  };
  Guarded<float> want_cost, cost;
  Guarded<uint8_t> want_from, from;
  const double want = run(plain_pass, want_cost, want_from);
  for (const kbit::Kernels* kernels : tables()) {
    const double found = run(kernels->vector->trellis->pass, cost, from);
    const std::string what = std::string("pass of ") + std::to_string(bits) + " bits over " + std::to_string(cols) + " columns on " + kernels->name;
    expect(found == want && std::equal(cost.begin(), cost.end(), want_cost.begin()), what + ": costs");
    expect(std::equal(from.begin(), from.end(), want_from.begin()), what + ": predecessors");
  }
}

struct Block {
  int bits;
  int64_t cols, kept, stride;
  Guarded<float> level, weights, scale, carried, factor;
  uint16_t first;
};

struct Path {
  float cost = 0.0f;
  std::vector<uint16_t> states;
  std::vector<float> errors;
};

// Every state keeps its best path, state by state, and a path's errors are summed anew for each column.
std::vector<uint16_t> plain_walk(const Block& b) {
  const int64_t branches = int64_t{1} << b.bits;
  std::vector<Path> paths(kTrellisStates);
  std::vector<bool> alive(kTrellisStates, false);
  alive[b.first] = true;
  float reach = HUGE_VALF;
  for (int64_t col = 0; col < b.cols; ++col) {
    std::vector<Path> next(kTrellisStates);
    std::vector<float> cost(kTrellisStates, HUGE_VALF);
    const float* factor = b.factor.begin() + col;
    for (int64_t s = 0; s < kTrellisStates; ++s) {
      if (!alive[at(s)]) continue;
      float sum = b.carried.begin()[col];
      for (int64_t i = 0; i < col; ++i) sum += paths[at(s)].errors[at(i)] * factor[i * b.stride];
      for (int64_t c = 0; c < branches; ++c) {
        const int64_t to = (s * branches + c) % kTrellisStates;
        const float error = b.weights.begin()[col] - b.scale.begin()[col] * b.level.begin()[to], miss = factor[col * b.stride] * error + sum;
        const float total = miss * miss + paths[at(s)].cost;
        if (!(total < cost[at(to)])) continue;
        cost[at(to)] = total;
        next[at(to)] = paths[at(s)];
        next[at(to)].states.push_back(static_cast<uint16_t>(to));
        next[at(to)].errors.push_back(error);
      }
    }
    const float least = *std::min_element(cost.begin(), cost.end()), most = reach < HUGE_VALF ? least + reach : FLT_MAX;
    if (col + 1 == b.cols) return next[at(std::min_element(cost.begin(), cost.end()) - cost.begin())].states;
    int64_t kept = 0;
    double above = 0.0;
    for (int64_t s = 0; s < kTrellisStates; ++s) {
      alive[at(s)] = cost[at(s)] <= most;
      kept += alive[at(s)];
      if (alive[at(s)]) above += static_cast<double>(cost[at(s)] - least);
      next[at(s)].cost = col % kTrellisLine == kTrellisLine - 1 ? cost[at(s)] - least : cost[at(s)];
    }
    if (reach < HUGE_VALF) reach *= kept > b.kept ? 0.9f : 1.05f;
    else if (kept > b.kept && above > 0.0) reach = static_cast<float>(above / static_cast<double>(kept));
    paths.swap(next);
  }
  return {};
}

std::vector<uint16_t> walk(const kbit::TrellisOps& ops, const Block& b) {
  const int64_t states = kTrellisStates;
  Guarded<float> cost, next, lines, moved, before, far, far_next;
  Guarded<int32_t> who, root, moved_root, before_root, row;
  Guarded<uint16_t> parent, state, path;
  for (Guarded<float>* x : {&cost, &next}) x->resize(states);
  for (Guarded<float>* x : {&lines, &moved, &before}) x->resize(states * kTrellisLine);
  for (Guarded<float>* x : {&far, &far_next}) x->resize(states * b.stride);
  for (Guarded<int32_t>* x : {&who, &root, &moved_root, &before_root, &row}) x->resize(states);
  for (Guarded<uint16_t>* x : {&parent, &state}) x->resize(states * b.cols);
  path.resize(b.cols);
  kbit::TrellisWalk w{b.bits, b.level.begin(), b.weights.begin(), b.scale.begin(), b.carried.begin(), b.factor.begin(), b.cols, b.stride, b.kept,
                      cost.begin(), next.begin(), who.begin(), lines.begin(), moved.begin(), before.begin(), root.begin(), moved_root.begin(),
                      before_root.begin(), far.begin(), far_next.begin(), row.begin(), parent.begin(), state.begin(), b.first, path.begin()};
  ops.walk(w);
  return {path.begin(), path.end()};
}

void test_walk(int bits, int64_t cols, int64_t kept, float size) {
  Block b{bits, cols, kept, (cols + kTrellisLine - 1) / kTrellisLine * kTrellisLine, {}, {}, {}, {}, {}, static_cast<uint16_t>(rng() % kTrellisStates)};
  fill_levels(b.level, bits);
  fill_normal(b.weights, cols);
  fill(b.scale, cols, 0.8f, 1.3f);
  b.carried.resize(b.stride);
  b.factor.resize(cols * b.stride);
  std::fill(b.carried.begin(), b.carried.end(), 0.0f);
  std::fill(b.factor.begin(), b.factor.end(), 0.0f);
  for (int64_t i = 0; i < cols; ++i) {
    b.carried.begin()[i] = size * normal();
    for (int64_t j = i; j < cols; ++j) b.factor.begin()[i * b.stride + j] = size * (i == j ? 1.0f + std::fabs(normal()) : 0.3f * normal());
  }
  const std::vector<uint16_t> want = plain_walk(b);
  for (const kbit::Kernels* kernels : tables()) {
    expect(walk(*kernels->vector->trellis, b) == want, "walk of " + std::to_string(bits) + " bits over " + std::to_string(cols) + " columns, " +
                                                           std::to_string(kept) + " states kept, on " + kernels->name);
  }
}

// Sums beyond what a float holds still give a path, each state of which follows the one before.
void test_overflow(int bits) {
  const int64_t cols = 40;
  Block b{bits, cols, 256, 48, {}, {}, {}, {}, {}, 7};
  fill_levels(b.level, bits);
  fill_normal(b.weights, cols);
  fill(b.scale, cols, 0.8f, 1.3f);
  b.carried.resize(b.stride);
  b.factor.resize(cols * b.stride);
  std::fill(b.carried.begin(), b.carried.end(), 0.0f);
  std::fill(b.factor.begin(), b.factor.end(), 0.0f);
  for (int64_t i = 0; i < cols; ++i) std::fill(b.factor.begin() + i * b.stride + i, b.factor.begin() + i * b.stride + cols, 1e30f);
  std::vector<std::vector<uint16_t>> found;
  for (const kbit::Kernels* kernels : tables()) found.push_back(walk(*kernels->vector->trellis, b));
  for (const std::vector<uint16_t>& path : found) {
    expect(path == found[0], "the same path beyond the largest float");
    uint16_t before = b.first;
    for (const uint16_t state : path) {
      expect((state >> bits) == before % (kTrellisStates >> bits), "a path beyond the largest float");
      before = state;
    }
  }
}

}  // namespace

int main() {
  for (int bits = 1; bits <= kbit::kTrellisBits; ++bits) {
    for (const int64_t cols : kCols) {
      test_pass(bits, cols, cols % 2 == 0, cols % 3 == 0);
      for (const int64_t kept : {20, 256, 1024}) test_walk(bits, cols, kept, cols % 2 == 0 ? 1.0f : 1e-3f);
    }
    test_overflow(bits);
  }
  return kbit::test::close();
}
