// The native encoder against encode_reference.h, byte for byte: all bits, weight types, scale kinds, searches, zero points, importance,
// odd shapes and thread counts. Runs on every machine that kbit is built for, where the Python tests compare with numpy on one.
#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "encode_reference.h"
#include "kbit/encode.h"

namespace {

using namespace kbit::test;
using kbit::ScaleKind;
using kbit::ScaleSearch;
using kbit::WeightType;

std::mt19937 rng(11);

struct Stores {
  std::vector<uint8_t> planes, scale, zero_point;
  std::vector<float> super_scale;
  bool operator==(const Stores&) const = default;
};

struct Given {
  int64_t rows, cols, group_size;
  int bits;
  WeightType type;
  Problem problem;
  std::vector<uint8_t> bytes;      // the weights as stored
  std::vector<float> weights;      // and their values
  std::vector<float> importance;   // empty, [cols] or [rows, cols]
  float matrix_super_scale;

  int64_t tiles() const { return (rows + 15) / 16; }
  int64_t groups() const { return (cols + group_size - 1) / group_size; }
  int scale_bytes() const { return problem.kind == ScaleKind::fp16 ? 2 : 1; }
  Group group(int64_t row, int64_t index) const {
    Group g;
    for (int64_t col = index * group_size; col < std::min(cols, (index + 1) * group_size); ++col) {
      g.weights.push_back(weights[at(row * cols + col)]);
      const bool a_row_each = importance.size() > at(cols);
      g.importance.push_back(importance.empty() ? 1.0 : static_cast<double>(importance[at(a_row_each ? row * cols + col : col)]));
    }
    return g;
  }
};

Stores reference(const Given& given) {
  const Problem& p = given.problem;
  Stores out;
  out.scale.assign(at(given.tiles() * given.groups() * 16 * given.scale_bytes()), 0);
  if (p.zero_points) out.zero_point.assign(at(given.tiles() * given.groups() * 16), 0);
  std::vector<uint8_t> codes(at(given.rows * given.cols));
  for (int64_t tile = 0; tile < given.tiles(); ++tile) {
    const int64_t first = tile * 16, last = std::min(given.rows, first + 16);
    float largest = 0.0f, super_scale = given.matrix_super_scale;
    for (int64_t row = first; row < last; ++row)
      for (int64_t g = 0; g < given.groups(); ++g) largest = std::max(largest, std::fabs(absmax_of(p, given.group(row, g))));
    if (p.kind == ScaleKind::dq8) out.super_scale.push_back(super_scale = static_cast<float>(static_cast<double>(largest) / 127.0));
    for (int64_t row = first; row < last; ++row)
      for (int64_t g = 0; g < given.groups(); ++g) {
        const Group group = given.group(row, g);
        const Answer a = best_of(p, group, super_scale);
        const int64_t place = (tile * given.groups() + g) * 16 + row - first;
        for (int b = 0; b < given.scale_bytes(); ++b) out.scale[at(place * given.scale_bytes() + b)] = static_cast<uint8_t>(a.scale.bits >> (8 * b));
        if (p.zero_points) out.zero_point[at(place)] = static_cast<uint8_t>(a.zero);
        for (size_t j = 0; j < group.weights.size(); ++j)
          codes[at(row * given.cols + g * given.group_size) + j] = static_cast<uint8_t>(code_of(p, group.weights[j], a.scale.value, a.zero));
      }
  }
  out.planes = reference_planes(codes, given.rows, given.cols, given.bits);
  return out;
}

kbit::Status native(const Given& given, int threads, Stores& out, int64_t& first_bad) {
  const Problem& p = given.problem;
  out.planes.assign(at(kbit::packed_bytes(given.rows, given.cols, given.bits)), 0xee);
  out.scale.assign(at(given.tiles() * given.groups() * 16 * given.scale_bytes()), 0xee);
  out.zero_point.assign(p.zero_points ? at(given.tiles() * given.groups() * 16) : 0, 0xee);
  out.super_scale.assign(p.kind == ScaleKind::dq8 ? at(given.tiles()) : 0, -1.0f);
  std::vector<uint16_t> scale(out.scale.size());  // aligned for either kind
  const kbit::EncodeTask task{
      .weights = {given.bytes.data(), given.type, given.rows, given.cols},
      .importance = given.importance.empty() ? nullptr : given.importance.data(),
      .importance_stride = given.importance.size() > at(given.cols) ? given.cols : 0,
      .levels = p.levels.data(),
      .n_levels = static_cast<int>(p.levels.size()),
      .bits = given.bits,
      .anchor = p.anchor,
      .mirrored = p.mirrored,
      .zero_points = p.zero_points,
      .group_size = given.group_size,
      .search = p.search,
      .scale_kind = p.kind,
      .matrix_super_scale = given.matrix_super_scale,
      .planes = out.planes.data(),
      .scale = scale.data(),
      .tile_super_scale = out.super_scale.empty() ? nullptr : out.super_scale.data(),
      .zero_point = p.zero_points ? out.zero_point.data() : nullptr,
  };
  const kbit::Status status = kbit::encode(task, threads, &first_bad);
  std::memcpy(out.scale.data(), scale.data(), out.scale.size());
  return status;
}

std::vector<float> make_levels(int bits, bool zero_points) {
  const int n = std::max(2, (1 << bits) - (rng() % 4 == 0 ? 1 : 0)), shape = zero_points ? 0 : static_cast<int>(1 + rng() % 3);
  std::vector<float> levels(at(n));
  for (int i = 0; i < n; ++i) {
    const float centred = static_cast<float>(2 * i - n + 1) / static_cast<float>(n);
    levels[at(i)] = shape == 0 ? static_cast<float>(i) : shape == 1 ? static_cast<float>(i - n / 2) : shape == 2 ? centred * std::fabs(centred) : 0.0f;
  }
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  if (shape == 3)
    for (float& level : levels) level = uniform(rng);
  std::sort(levels.begin(), levels.end());
  return levels;
}

// Weights of each row in another order of magnitude: zeros, subnormal and saturating scales among them.
void make_weights(Given& given) {
  std::normal_distribution<float> normal;
  const float sizes[] = {0.05f, 1.0f, 0.0f, 1e-6f, 3e4f, 20.0f};
  const size_t width = given.type == WeightType::fp32 ? 4 : 2;
  for (int64_t row = 0; row < given.rows; ++row) {
    const float size = one_of(rng, sizes);
    for (int64_t col = 0; col < given.cols; ++col) {
      float value = normal(rng) * size * (rng() % 16 == 0 ? 4.0f : 1.0f);
      uint32_t stored;
      if (given.type == WeightType::fp16) {
        const unsigned half = nearest(kHalves, std::fabs(static_cast<double>(value)));
        stored = half | (value < 0 ? 0x8000u : 0u);
        value = static_cast<float>(kHalves[half]) * (value < 0 ? -1.0f : 1.0f);
      } else {
        std::memcpy(&stored, &value, 4);
        if (given.type == WeightType::bf16) stored &= 0xffff0000u;
        std::memcpy(&value, &stored, 4);
        if (given.type == WeightType::bf16) stored >>= 16;
      }
      given.weights.push_back(value);
      for (size_t b = 0; b < width; ++b) given.bytes.push_back(static_cast<uint8_t>(stored >> (8 * b)));
    }
  }
}

Given make_given(int bits) {
  Given given{one_of(rng, {int64_t{1}, int64_t{15}, int64_t{16}, int64_t{17}, int64_t{33}}),
              one_of(rng, {int64_t{1}, int64_t{16}, int64_t{31}, int64_t{33}, int64_t{100}, int64_t{150}}), 0, bits,
              one_of(rng, {WeightType::fp32, WeightType::fp16, WeightType::bf16}), {}, {}, {}, {}, 0.0f};
  given.group_size = std::min(given.cols, one_of(rng, {int64_t{16}, int64_t{48}, int64_t{64}, int64_t{112}, int64_t{1} << 40}));
  Problem& p = given.problem;
  p.zero_points = rng() % 3 == 0;
  p.levels = make_levels(bits, p.zero_points);
  p.kind = one_of(rng, {ScaleKind::fp16, ScaleKind::e4m3, ScaleKind::dq8});
  p.search = rng() % 2 == 0 ? ScaleSearch::mse : ScaleSearch::absmax;
  p.anchor = -p.levels.front() > p.levels.back() ? p.levels.front() : p.levels.back();
  p.mirrored = -p.levels.front() == p.levels.back();
  make_weights(given);
  std::uniform_real_distribution<float> uniform(0.0f, 2.0f);
  given.importance.resize(at(one_of(rng, {int64_t{0}, given.cols, given.rows * given.cols})));
  for (float& i : given.importance) i = uniform(rng);
  if (p.kind == ScaleKind::e4m3) given.matrix_super_scale = one_of(rng, {0.0f, 1e-3f, 0.3f, 200.0f});
  return given;
}

void test_encode(const Given& given) {
  const std::string name = "encode: bits " + std::to_string(given.bits) + " rows " + std::to_string(given.rows) + " cols " + std::to_string(given.cols) +
                           " group " + std::to_string(given.group_size) + " type " + std::to_string(static_cast<int>(given.type)) + " kind " +
                           std::to_string(static_cast<int>(given.problem.kind)) + " zero " + std::to_string(given.problem.zero_points) + " search " +
                           std::to_string(static_cast<int>(given.problem.search)) + " levels " + std::to_string(given.problem.levels.size());
  const Stores want = reference(given);
  for (const int threads : {1, 3}) {
    Stores got;
    int64_t first_bad;
    expect(native(given, threads, got, first_bad) == kbit::Status::ok, name + ": refused");
    expect(got.scale == want.scale, name + ": scales differ");
    expect(got.super_scale == want.super_scale, name + ": super-scales differ");
    expect(got.zero_point == want.zero_point, name + ": zero points differ");
    expect(got.planes == want.planes, name + ": codes differ");
  }
}

// NaN and Inf are found at the first place in row-major order, by both passes; the spread is that of the widest group.
void test_not_finite(Given given) {
  double spread = -1.0, widest = 0.0;
  int64_t first_bad = -1;
  const kbit::Weights weights{given.bytes.data(), given.type, given.rows, given.cols};
  for (int64_t row = 0; row < given.rows; ++row)
    for (int64_t g = 0; g < given.groups(); ++g) {
      double low = 0.0, high = 0.0;
      for (const double w : given.group(row, g).weights) low = std::min(low, w), high = std::max(high, w);
      widest = std::max(widest, given.problem.zero_points ? high - low : std::max(high, -low));
    }
  expect(kbit::scan(weights, given.group_size, given.problem.zero_points, 2, &spread, &first_bad) == kbit::Status::ok && spread == widest, "scan: spread");
  const auto count = static_cast<int64_t>(given.weights.size());
  int64_t first = count;
  for (int n = 0; n < 2; ++n) {
    const int64_t place = static_cast<int64_t>(rng()) % count;
    const uint32_t inf = given.type == WeightType::fp16 ? 0xfc00u : given.type == WeightType::bf16 ? 0xff80u : 0xff800000u, bad = inf | (rng() % 2);
    const size_t width = given.type == WeightType::fp32 ? 4 : 2;
    for (size_t b = 0; b < width; ++b) given.bytes[at(place) * width + b] = static_cast<uint8_t>(bad >> (8 * b));
    first = std::min(first, place);
  }
  Stores ignored;
  expect(kbit::scan(weights, given.group_size, false, 2, &spread, &first_bad) == kbit::Status::not_finite && first_bad == first, "scan: first NaN");
  expect(native(given, 2, ignored, first_bad) == kbit::Status::not_finite && first_bad == first, "encode: first NaN");
}

// Sizes that no matrix has, and a group that outreaches the row: refused before anything is read or written.
void test_bad_sizes() {
  const float weights[32] = {};
  double spread;
  int64_t first_bad;
  for (const auto& [rows, cols, group_size] : {std::array<int64_t, 3>{2, 16, 17}, {2, 16, 32}, {2, 16, 0}, {2, 16, -1}, {0, 16, 16}, {2, 0, 16}}) {
    const kbit::Weights view{weights, WeightType::fp32, rows, cols};
    kbit::EncodeTask task{};
    task.weights = view;
    task.group_size = group_size;
    const std::string name = " accepted " + std::to_string(rows) + " x " + std::to_string(cols) + " in groups of " + std::to_string(group_size);
    expect(kbit::scan(view, group_size, false, 1, &spread, &first_bad) == kbit::Status::invalid_argument, "scan" + name);
    expect(kbit::encode(task, 1, &first_bad) == kbit::Status::invalid_argument, "encode" + name);
  }
}

}  // namespace

int main() {
  test_bad_sizes();
  for (int bits = 1; bits <= 8; ++bits)
    for (int round = 0; round < 40; ++round) {
      const Given given = make_given(bits);
      test_encode(given);
      if (round % 4 == 0) test_not_finite(given);
    }
  return close();
}
