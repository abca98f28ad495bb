// Joint codebooks: the oracle against sums over dequantized rows, and every instruction set that this processor runs against the oracle, byte for
// byte: all bits and dims, scale kinds, group sizes, odd shapes, token counts and thread splits. Every buffer ends at a page that may not be touched.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "half.h"
#include "kbit/kbit.h"
#include "kernels.h"
#include "tests/guarded.h"

namespace {

using kbit::Matrix;
using kbit::test::Guarded;

std::mt19937 rng(11);
int64_t passed = 0, failed = 0;

void expect(bool good, const char* what, const Matrix& m, int64_t tokens, const char* set) {
  if (good) {
    ++passed;
    return;
  }
  if (++failed > 20) return;
  std::printf("%s %s: bits %d dims %d rows %lld inputs %lld group %lld scale %d tokens %lld\n", set, what, m.bits, m.dims, static_cast<long long>(m.rows),
              static_cast<long long>(m.inputs), static_cast<long long>(m.group_size), static_cast<int>(m.scale_kind), static_cast<long long>(tokens));
}

struct Made {
  Matrix matrix{};
  std::vector<float> codebook;
  Guarded<float> super_scale, x;
  Guarded<uint16_t> half_scale;
  Guarded<uint8_t> planes, byte_scale;
};

void make(int bits, int dims, int64_t rows, int64_t inputs, int64_t group_size, int64_t tokens, Made& out) {
  Matrix& m = out.matrix;
  m.rows = rows, m.inputs = inputs, m.bits = bits, m.dims = dims, m.group_size = group_size;
  m.scale_kind = static_cast<kbit::ScaleKind>(rng() % 3);
  std::normal_distribution<float> normal;
  const int entries = (1 << bits) - (rng() % 4 == 0 ? 1 : 0);
  for (int i = 0; i < entries * dims; ++i) out.codebook.push_back(normal(rng));
  if (kbit::build_joint(m, out.codebook.data(), entries) != kbit::Status::ok) std::abort();
  out.planes.resize(kbit::packed_bytes(rows, m.cols, bits));
  std::vector<uint8_t> codes(static_cast<size_t>(rows * m.cols));
  for (uint8_t& code : codes) code = static_cast<uint8_t>(rng() % static_cast<unsigned>(entries));
  kbit::pack(codes.data(), rows, m.cols, bits, out.planes.begin(), 1);
  m.planes = out.planes.begin();
  const int64_t count = m.tiles * m.groups * kbit::kTileRows;
  out.half_scale.resize(count);
  for (uint16_t& s : out.half_scale) s = static_cast<uint16_t>((rng() & 0x8fffu) | 0x2000u);
  out.byte_scale.resize(count);
  out.byte_scale.randomize(rng);
  for (uint8_t& s : out.byte_scale) s = (s & 0x7f) == 0x7f ? 0x7e : s;
  out.super_scale.resize(m.tiles);
  for (float& s : out.super_scale) s = 0.37f + static_cast<float>(rng() % 100) * 0.01f;
  m.scale = m.scale_kind == kbit::ScaleKind::fp16 ? static_cast<const void*>(out.half_scale.begin()) : out.byte_scale.begin();
  m.super_scale = out.super_scale.begin();
  out.x.resize(tokens * inputs);
  for (float& value : out.x) value = normal(rng);
  if (rng() % 8 == 0) out.x.begin()[0] = NAN;
}

std::vector<uint32_t> run(const kbit::Kernels& kernels, const Made& made, int64_t tokens, bool exact, int threads) {
  if (!kbit::select_kernels(kernels.name)) std::abort();
  const int64_t rows = made.matrix.rows;
  Guarded<float> y;
  y.resize(tokens * rows);
  (exact ? kbit::matmul_exact : kbit::matmul_fast)(made.matrix, made.x.begin(), tokens, y.begin(), rows, threads);
  std::vector<uint32_t> bits;
  for (const float value : y) bits.push_back(std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value));
  return bits;
}

// Rows as dequantized are what the codebook, the codes and the scales say, and both modes are near the sums over them.
void check_oracle(const Made& made, int64_t tokens) {
  const Matrix& m = made.matrix;
  std::vector<uint8_t> codes(static_cast<size_t>(m.rows * m.cols));
  kbit::unpack(m.planes, m.rows, m.cols, m.bits, 0, m.rows, codes.data(), 1);
  std::vector<float> row(static_cast<size_t>(m.inputs));
  const auto exact = run(kbit::scalar_kernels, made, tokens, true, 1), fast = run(kbit::scalar_kernels, made, tokens, false, 1);
  for (int64_t r = 0; r < m.rows; ++r) {
    kbit::dequantize_rows(m, &r, 1, row.data(), 1);
    const int64_t tile = r / kbit::kTileRows;
    bool alike = true;
    double size = 0, step = 0;  // of the row's weights, and of what separates two of their bytes
    for (int64_t i = 0; i < m.inputs; ++i) {
      const float level = made.codebook[static_cast<size_t>(codes[static_cast<size_t>(r * m.cols + i / m.dims)] * m.dims + i % m.dims)];
      const float scale = kbit::scale_at(m, tile, i / m.dims / m.group_size, static_cast<int>(r % kbit::kTileRows));
      alike = alike && row[static_cast<size_t>(i)] == scale * level;
      size += std::fabs(static_cast<double>(scale * level)), step += std::fabs(static_cast<double>(scale * m.integer.step));
    }
    expect(alike, "dequantized", m, tokens, "scalar");
    for (int64_t t = 0; t < tokens; ++t) {
      double sum = 0;
      float largest = 0;
      for (int64_t i = 0; i < m.inputs; ++i) {
        sum += static_cast<double>(row[static_cast<size_t>(i)]) * made.x.begin()[t * m.inputs + i];
        largest = std::max(largest, std::fabs(made.x.begin()[t * m.inputs + i]));
      }
      if (std::isnan(sum)) continue;
      const auto near = [&](uint32_t bits, double error) { return std::fabs(std::bit_cast<float>(bits) - sum) <= error * largest + 1e-30; };
      expect(near(exact[static_cast<size_t>(t * m.rows + r)], 1e-4 * size), "exact", m, tokens, "scalar");
      expect(near(fast[static_cast<size_t>(t * m.rows + r)], 0.51 * step + size / 250), "fast", m, tokens, "scalar");
    }
  }
}

void check(int bits, int dims, int64_t rows, int64_t inputs, int64_t group_size, int64_t tokens, bool oracle) {
  const kbit::Kernels* all[8];
  const int count = kbit::available_kernels(all, 8);
  Made made;
  make(bits, dims, rows, inputs, group_size, tokens, made);
  if (oracle) check_oracle(made, tokens);
  for (const bool exact : {false, true}) {
    const auto want = run(*all[count - 1], made, tokens, exact, 1);
    for (int i = 0; i + 1 < count; ++i) {
      for (const int threads : {1, 3}) expect(run(*all[i], made, tokens, exact, threads) == want, exact ? "exact" : "fast", made.matrix, tokens, all[i]->name);
    }
  }
}

void check_build() {
  const float codebook[6] = {0, 1, 2, 3, 4, NAN};
  const struct {
    int64_t inputs, group_size;
    int bits, dims, entries;
    kbit::Status want;
  } cases[] = {
      {100, -1, 6, 3, 1, kbit::Status::ok},  {100, 96, 6, 3, 1, kbit::Status::ok},   {100, 100, 4, 2, 1, kbit::Status::ok},
      {100, 48, 6, 3, 1, kbit::Status::invalid_argument},  {100, 128, 4, 2, 1, kbit::Status::invalid_argument},
      {100, 64, 4, 3, 1, kbit::Status::invalid_argument},  {100, 64, 7, 2, 1, kbit::Status::invalid_argument},
      {100, 64, 6, 4, 1, kbit::Status::invalid_argument},  {100, 64, 6, 2, 0, kbit::Status::invalid_argument},
      {0, -1, 6, 2, 1, kbit::Status::invalid_argument},    {100, -1, 6, 3, 2, kbit::Status::not_finite},
  };
  for (const auto& c : cases) {
    Matrix m{};
    m.rows = 16, m.inputs = c.inputs, m.bits = c.bits, m.dims = c.dims, m.group_size = c.group_size;
    expect(kbit::build_joint(m, codebook, c.entries) == c.want, "build", m, 0, "");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 60;
  const int kinds[][2] = {{2, 2}, {3, 2}, {4, 2}, {5, 2}, {6, 2}, {3, 3}, {6, 3}};
  const int64_t rows[] = {1, 15, 16, 17, 33, 48}, inputs[] = {1, 2, 3, 31, 64, 97, 192, 257, 385, 600}, tokens[] = {1, 1, 2, 3, 4, 5, 8, 9, 16, 17, 40};
  for (const auto& [bits, dims] : kinds) {
    for (int round = 0; round < rounds; ++round) {
      const int64_t cols = inputs[rng() % 10], group = 32 * dims * static_cast<int64_t>(1 + rng() % 4);
      check(bits, dims, rows[rng() % 6], cols, rng() % 3 == 0 || group > cols ? -1 : group, tokens[rng() % 11], round % 4 == 0);
    }
    // Threads really split the tiles, a strip of decoded tiles does not hold them all, and one tile fills it.
    if (rounds < 60) continue;
    for (const int64_t m : {1, 4, 33}) {
      check(bits, dims, 257, 1152, 32 * dims, m, false);
      check(bits, dims, 40, 16500, -1, m, false);
    }
  }
  check_build();
  std::printf("%lld passed, %lld failed\n", static_cast<long long>(passed), static_cast<long long>(failed));
  return failed == 0 ? 0 : 1;
}
