// Every instruction set that this processor runs against the scalar oracle, byte for byte: all bits, codebooks of each integer
// class, scale kinds, zero points, group sizes, odd shapes, token counts and thread splits.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kbit/kbit.h"
#include "kernels.h"

namespace {

using kbit::Matrix;

std::mt19937 rng(7);

template <class T>
std::vector<T> random_bytes(int64_t count) {
  std::vector<T> out(static_cast<size_t>(count));
  for (T& value : out) value = static_cast<T>(rng());
  return out;
}

enum class Book { linear, small, wide, full };

std::vector<float> make_levels(Book book, int bits) {
  const int n = 1 << bits;
  std::vector<float> levels;
  std::uniform_real_distribution<float> gap(0.05f, 1.0f);
  float value = -1.0f;
  for (int i = 0; i < n; ++i) {
    switch (book) {
      case Book::linear: levels.push_back(static_cast<float>(i - n / 2)); break;
      case Book::small: levels.push_back(static_cast<float>(i) * 0.5f); break;
      case Book::wide: levels.push_back(static_cast<float>(i < n / 2 ? i - 2 * n : i)); break;
      default: levels.push_back(value), value += gap(rng);
    }
  }
  return levels;
}

struct Case {
  int64_t rows, cols, group_size;
  int bits;
  Book book;
  kbit::ScaleKind scale_kind;
  bool zero_point;
  int64_t tokens;
};

struct Made {
  Matrix matrix{};
  std::vector<float> levels, super_scale, x;
  std::vector<uint8_t, std::allocator<uint8_t>> storage;
  std::vector<uint16_t> half_scale;
  std::vector<uint8_t> byte_scale, zero_point;
};

void make(const Case& c, Made& out) {
  Matrix& m = out.matrix;
  m.rows = c.rows, m.cols = c.cols, m.bits = c.bits, m.group_size = c.group_size, m.scale_kind = c.scale_kind;
  out.levels = make_levels(c.book, c.bits);
  if (kbit::build(m, out.levels.data(), static_cast<int>(out.levels.size())) != kbit::Status::ok) std::abort();
  const int64_t bytes = kbit::packed_bytes(c.rows, c.cols, c.bits);
  out.storage = random_bytes<uint8_t>(bytes + 64);
  const auto address = reinterpret_cast<uintptr_t>(out.storage.data());
  m.planes = out.storage.data() + (64 - address % 64) % 64;
  const int64_t count = m.tiles * m.groups * kbit::kTileRows;
  out.half_scale.resize(static_cast<size_t>(count));
  for (uint16_t& s : out.half_scale) s = static_cast<uint16_t>((rng() & 0x8fffu) | 0x2000u);
  out.byte_scale = random_bytes<uint8_t>(count);
  for (uint8_t& s : out.byte_scale) s = (s & 0x7f) == 0x7f ? 0x7e : s;
  out.super_scale.assign(static_cast<size_t>(m.tiles), 0.37f);
  for (float& s : out.super_scale) s += static_cast<float>(rng() % 100) * 0.01f;
  m.scale = c.scale_kind == kbit::ScaleKind::fp16 ? static_cast<const void*>(out.half_scale.data()) : out.byte_scale.data();
  m.super_scale = out.super_scale.data();
  out.zero_point = random_bytes<uint8_t>(count);
  m.zero_point = c.zero_point ? out.zero_point.data() : nullptr;
  std::normal_distribution<float> normal;
  out.x.resize(static_cast<size_t>(c.tokens * c.cols));
  for (float& value : out.x) value = normal(rng);
  if (rng() % 8 == 0) out.x[0] = NAN;
  if (rng() % 8 == 0) std::fill(out.x.begin(), out.x.end(), 1e-41f);
}

std::vector<uint32_t> run(const kbit::Kernels& kernels, const Made& made, const Case& c, bool exact, int threads) {
  if (!kbit::select_kernels(kernels.name)) std::abort();
  std::vector<float> y(static_cast<size_t>(c.tokens * c.rows), -7.0f);
  (exact ? kbit::matmul_exact : kbit::matmul_fast)(made.matrix, made.x.data(), c.tokens, y.data(), threads);
  std::vector<uint32_t> bits(y.size());
  std::memcpy(bits.data(), y.data(), y.size() * 4);
  for (size_t i = 0; i < y.size(); ++i) {
    if (std::isnan(y[i])) bits[i] = 0x7fc00000u;  // the sign of a NaN is nobody's promise
  }
  return bits;
}

}  // namespace

int main() {
  const kbit::Kernels* all[8];
  const int count = kbit::available_kernels(all, 8);
  const kbit::Kernels& scalar = *all[count - 1];
  int64_t passed = 0, failed = 0;
  const int64_t rows[] = {1, 15, 16, 17, 33, 48};
  const int64_t cols[] = {1, 16, 31, 32, 33, 64, 100, 257, 384};
  const int64_t groups[] = {16, 32, 48, 64, 80, 128, 256, 1024, -1};
  const int64_t tokens[] = {1, 1, 2, 3, 4, 5, 9};
  for (int bits = 1; bits <= 8; ++bits) {
    for (int round = 0; round < 240; ++round) {
      Case c{rows[rng() % 6], cols[rng() % 9], groups[rng() % 9], bits, static_cast<Book>(rng() % 4), static_cast<kbit::ScaleKind>(rng() % 3),
             rng() % 4 == 0, tokens[rng() % 7]};
      if (c.book == Book::wide && bits > 6) c.book = Book::full;
      Made made;
      make(c, made);
      for (const bool exact : {false, true}) {
        const auto want = run(scalar, made, c, exact, 1);
        for (int i = 0; i < count; ++i) {
          for (const int threads : {1, 3}) {
            const auto got = run(*all[i], made, c, exact, threads);
            if (got == want) {
              ++passed;
              continue;
            }
            if (++failed <= 20) {
              size_t at = 0;
              while (got[at] == want[at]) ++at;
              std::printf("%s %s: bits %d rows %lld cols %lld group %lld book %d scale %d zero %d tokens %lld threads %d depth %d: y[%zu] %08x, expected %08x\n",
                          all[i]->name, exact ? "exact" : "fast", bits, static_cast<long long>(c.rows), static_cast<long long>(c.cols),
                          static_cast<long long>(c.group_size), static_cast<int>(c.book), static_cast<int>(c.scale_kind), c.zero_point,
                          static_cast<long long>(c.tokens), threads, made.matrix.integer.depth, at, got[at], want[at]);
            }
          }
        }
      }
    }
  }
  std::printf("instruction sets:");
  for (int i = 0; i < count; ++i) std::printf(" %s", all[i]->name);
  std::printf("\n%lld passed, %lld failed\n", static_cast<long long>(passed), static_cast<long long>(failed));
  return failed == 0 ? 0 : 1;
}
