// Every instruction set that this processor runs against the scalar oracle, byte for byte: all bits, codebooks of each integer
// class, variants of fast mode, scale kinds, zero points, group sizes, odd shapes, token counts and thread splits. Every buffer ends at a
// page that may not be touched, wherever that puts its beginning. The argument is the number of random cases for each k; fewer than the 240
// of a full run leave the large matrices out.
#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kbit/kbit.h"
#include "kernels.h"
#include "tests/guarded.h"

namespace {

using kbit::Matrix;
using kbit::Variant;
using kbit::test::Guarded;

std::mt19937 rng(7);

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

// Codes that no level belongs to occur in no stored matrix, and a codebook on a line says nothing about them.
void keep_codes_below(int n_levels, Matrix& m, Guarded<uint8_t>& planes) {
  std::vector<uint8_t> codes(static_cast<size_t>(m.rows * m.cols));
  kbit::unpack(planes.begin(), m.rows, m.cols, m.bits, 0, m.rows, codes.data(), 1);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(code % n_levels);
  kbit::pack(codes.data(), m.rows, m.cols, m.bits, planes.begin(), 1);
}

// A codebook on a line that is not the identity: q = offset + step · code. `build` makes few of them, kernels take them all.
void move_line(kbit::IntCodebook& book, int n_levels) {
  const int step = 1 + static_cast<int>(rng() % (n_levels > 1 ? 255u / static_cast<unsigned>(n_levels - 1) : 1u));
  const int offset = static_cast<int>(rng() % static_cast<unsigned>(256 - step * (n_levels - 1)));
  for (int code = 0; code < 256; ++code) book.q[code] = static_cast<uint8_t>(offset + step * std::min(code, n_levels - 1));
  const int most = offset + step * (n_levels - 1);
  book.depth = most <= 15 ? 8 : most <= 31 ? 4 : most <= 64 ? 2 : most <= 128 ? 1 : 0;
  book.identity = false;
}

struct Case {
  int64_t rows, cols, group_size;
  int bits;
  Book book;
  kbit::ScaleKind scale_kind;
  bool zero_point;
  int64_t tokens;
  int64_t gap = 0;     // floats between the rows of y, which stay what they were
  bool moved = false;  // the integer codebook is a line of its own
  bool trellis = false;
};

struct Made {
  Matrix matrix{};
  std::vector<float> levels;
  Guarded<float> super_scale, x;
  Guarded<uint16_t> half_scale;
  Guarded<uint8_t> planes, byte_scale, zero_point;
};

void make(const Case& c, Made& out) {
  Matrix& m = out.matrix;
  m.rows = c.rows, m.cols = c.cols, m.bits = c.bits, m.group_size = c.group_size, m.scale_kind = c.scale_kind;
  m.trellis = c.trellis;
  out.levels = make_levels(c.book, c.trellis ? 6 : c.bits);
  const bool fewer = c.bits > 1 && !c.trellis && rng() % 8 == 0;  // ternary and the like
  const int n_levels = static_cast<int>(out.levels.size()) - (fewer ? 1 : 0);
  if (kbit::build(m, out.levels.data(), n_levels) != kbit::Status::ok) std::abort();
  out.planes.resize(kbit::packed_bytes(c.rows, c.cols, c.bits));
  out.planes.randomize(rng);
  if (n_levels < 1 << c.bits) keep_codes_below(n_levels, m, out.planes);
  m.planes = out.planes.begin();
  if (c.moved) move_line(m.integer, n_levels);
  const int64_t count = m.tiles * m.groups * kbit::kTileRows;
  out.half_scale.resize(count);
  for (uint16_t& s : out.half_scale) s = static_cast<uint16_t>((rng() & 0x8fffu) | 0x2000u);
  out.byte_scale.resize(count);
  out.byte_scale.randomize(rng);
  for (uint8_t& s : out.byte_scale) s = (s & 0x7f) == 0x7f ? 0x7e : s;
  out.super_scale.resize(m.tiles);
  for (float& s : out.super_scale) s = 0.37f + static_cast<float>(rng() % 100) * 0.01f;
  m.scale = c.scale_kind == kbit::ScaleKind::fp16 ? static_cast<const void*>(out.half_scale.begin()) : out.byte_scale.begin();
  m.super_scale = out.super_scale.begin();
  out.zero_point.resize(count);
  out.zero_point.randomize(rng);
  m.zero_point = c.zero_point ? out.zero_point.begin() : nullptr;
  std::normal_distribution<float> normal;
  out.x.resize(c.tokens * c.cols);
  for (float& value : out.x) value = normal(rng);
  if (rng() % 8 == 0) out.x.begin()[0] = NAN;
  if (rng() % 8 == 0) std::fill(out.x.begin(), out.x.end(), 1e-41f);
}

// The bits of y [tokens, rows], and how many floats between its rows were written.
std::vector<uint32_t> run(const kbit::Kernels& kernels, const Made& made, const Case& c, bool exact, int threads, Variant variant = Variant::automatic) {
  Matrix matrix = made.matrix;
  if (!kbit::select_kernels(kernels.name) || kbit::select_variant(matrix, c.tokens > 1, variant) != kbit::Status::ok) std::abort();
  constexpr float untouched = -7.0f;
  const int64_t stride = c.rows + c.gap;
  Guarded<float> y;
  y.resize((c.tokens - 1) * stride + c.rows);
  std::fill(y.begin(), y.end(), untouched);
  (exact ? kbit::matmul_exact : kbit::matmul_fast)(matrix, made.x.begin(), c.tokens, y.begin(), stride, threads);
  std::vector<uint32_t> bits;
  uint32_t touched = 0;
  for (int64_t i = 0; i < y.end() - y.begin(); ++i) {
    const float value = y.begin()[i];
    if (i % stride >= c.rows) touched += value != untouched;
    else bits.push_back(std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value));  // the sign of a NaN is nobody's promise
  }
  bits.push_back(touched);
  return bits;
}

struct Count {
  int64_t passed = 0, failed = 0;
};

constexpr Variant kVariants[] = {Variant::automatic, Variant::lookup, Variant::integer, Variant::serial};

void check(const Case& c, const std::vector<int>& threads, Count& total) {
  const kbit::Kernels* all[8];
  const int count = kbit::available_kernels(all, 8);
  Made made;
  make(c, made);
  const auto compare = [&](const kbit::Kernels& kernels, bool exact, Variant variant, int workers, const std::vector<uint32_t>& want) {
    const auto got = run(kernels, made, c, exact, workers, variant);
    if (got == want && got.back() == 0) {
      ++total.passed;
      return;
    }
    if (++total.failed > 20) return;
    size_t at = 0;
    while (at + 1 < got.size() && got[at] == want[at]) ++at;
    std::printf("%s %s: variant %d bits %d rows %lld cols %lld group %lld book %d moved %d trellis %d scale %d zero %d tokens %lld gap %lld threads %d depth %d: y[%zu] %08x, expected %08x\n",
                kernels.name, exact ? "exact" : "fast", static_cast<int>(variant), c.bits, static_cast<long long>(c.rows), static_cast<long long>(c.cols),
                static_cast<long long>(c.group_size), static_cast<int>(c.book), c.moved, c.trellis, static_cast<int>(c.scale_kind), c.zero_point,
                static_cast<long long>(c.tokens), static_cast<long long>(c.gap), workers, made.matrix.integer.depth, at, got[at], want[at]);
  };
  for (const bool exact : {false, true}) {
    const auto want = run(*all[count - 1], made, c, exact, 1);
    for (int i = 0; i < count; ++i) {
      for (const Variant variant : kVariants) {
        if (variant != Variant::automatic && (exact || c.tokens > kbit::kFewTokens || !kbit::variant_possible(made.matrix, variant))) continue;
        // The oracle is slow: against itself only where it is alone.
        if (i > 0 && i == count - 1 && (variant == Variant::automatic || variant == Variant::lookup)) continue;
        for (const int workers : threads) compare(*all[i], exact, variant, workers, want);
      }
    }
  }
}

// What permits which variant, and that nothing else is taken.
void check_choice(Count& total) {
  const auto expect = [&](bool good, const char* what, int bits) {
    ++(good ? total.passed : total.failed);
    if (!good) std::printf("choice of a variant: %s at %d bits\n", what, bits);
  };
  for (int bits = 1; bits <= 8; ++bits) {
    for (const Book book : {Book::linear, Book::full}) {
      Made made;
      make({16, 64, 32, bits, book, kbit::ScaleKind::fp16, false, 1}, made);
      Matrix& m = made.matrix;
      const bool line = book == Book::linear || bits == 1;
      for (const Variant variant : kVariants) {
        const bool permitted = variant == Variant::integer ? line : variant == Variant::serial ? line && bits <= 4 : true;
        m.variant[0] = m.variant[1] = Variant::automatic;
        const auto status = kbit::select_variant(m, 1, variant);
        expect(kbit::variant_possible(m, variant) == permitted, "possible", bits);
        expect(status == (permitted ? kbit::Status::ok : kbit::Status::invalid_argument), "status", bits);
        expect(m.variant[1] == (permitted ? variant : Variant::automatic) && m.variant[0] == Variant::automatic, "taken", bits);
      }
      expect(kbit::select_variant(m, kbit::kTokenClasses, Variant::lookup) == kbit::Status::invalid_argument, "class", bits);
      expect(kbit::select_variant(m, -1, Variant::lookup) == kbit::Status::invalid_argument, "class", bits);
      expect(kbit::select_variant(m, 0, static_cast<Variant>(9)) == kbit::Status::invalid_argument, "number", bits);
      m.activation_group = 48;  // ends in the middle of a k-block
      expect(!kbit::variant_possible(m, Variant::integer) && !kbit::variant_possible(m, Variant::serial), "group", bits);
      expect(kbit::variant_possible(m, Variant::lookup), "group", bits);
    }
  }
}

Book book_for(int bits) {
  const auto book = static_cast<Book>(rng() % 4);
  return book == Book::wide && bits > 6 ? Book::full : book;
}

void check_small(int bits, int rounds, bool trellis, Count& total) {
  const int64_t rows[] = {1, 15, 16, 17, 33, 48};
  const int64_t cols[] = {1, 16, 31, 32, 33, 64, 100, 257, 384};
  const int64_t groups[] = {16, 32, 48, 64, 80, 112, 128, 256, 1024, -1};
  const int64_t tokens[] = {1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 23, 40};
  const int64_t gaps[] = {0, 0, 1, 16, 21};
  for (int round = 0; round < rounds; ++round) {
    Case c{rows[rng() % 6], cols[rng() % 9], groups[rng() % 10], bits, book_for(bits), static_cast<kbit::ScaleKind>(rng() % 3),
           rng() % 4 == 0, tokens[rng() % 13], gaps[rng() % 5], rng() % 4 == 0, trellis};
    c.group_size = std::min(c.group_size, c.cols);
    check(c, {1, 3}, total);
  }
}

// Large enough that threads really split the tiles, that a strip of decoded tiles does not hold them all, and that one tile fills it.
void check_large(int bits, bool trellis, Count& total) {
  const int64_t shapes[][3] = {{257, 1040, 64}, {208, 1300, 48}, {176, 2048, -1}, {1030, 260, 32}, {17, 16500, 128}};
  const int64_t tokens[] = {1, 2, 8, 17, 29, 32, 33};
  for (const auto& [rows, cols, group_size] : shapes) {
    const auto scale_kind = static_cast<kbit::ScaleKind>(rng() % 3);
    check({rows, cols, group_size, bits, book_for(bits), scale_kind, rng() % 4 == 0, tokens[rng() % 7], 0, rng() % 4 == 0, trellis}, {1, 2, 7}, total);
  }
}

// The activations' bytes themselves: ties between integers, extremes, denormals, and what is not finite.
void check_quantize(Count& total) {
  const kbit::Kernels* all[8];
  const int count = kbit::available_kernels(all, 8);
  const float odd[] = {0.0f, -0.0f, 0.5f, -0.5f, 1.5f, -2.5f, 63.5f, 127.0f, -127.0f, 1e-30f, 0x1p-120f, 0x1p-121f, FLT_MIN, 1e-41f, FLT_MAX, -FLT_MAX, INFINITY, NAN};
  for (int round = 0; round < 2000; ++round) {
    Case c{16, 1 + static_cast<int64_t>(rng() % 400), 16 * (1 + static_cast<int64_t>(rng() % 9)), 4, Book::linear, kbit::ScaleKind::fp16, false, 1};
    c.group_size = std::min(c.group_size, c.cols);
    Made made;
    make(c, made);
    for (float& value : made.x) {
      if (round % 4 != 0) value = odd[rng() % (round % 4 == 1 ? 9 : round % 4 == 2 ? 16 : 18)];
    }
    const kbit::Matrix& m = made.matrix;
    const int64_t groups = kbit::ceil_div(m.cols, m.activation_group);
    std::vector<uint8_t> want;
    for (int i = count - 1; i >= 0; --i) {
      Guarded<int8_t> q;
      Guarded<float> scale;
      Guarded<int32_t> sum;
      q.resize(m.kblocks * kbit::kBlockInputs), scale.resize(groups), sum.resize(groups);
      q.randomize(rng);
      all[i]->quantize(m, made.x.begin(), q.begin(), scale.begin(), sum.begin());
      std::vector<uint8_t> got(reinterpret_cast<uint8_t*>(q.begin()), reinterpret_cast<uint8_t*>(q.end()));
      got.insert(got.end(), reinterpret_cast<uint8_t*>(scale.begin()), reinterpret_cast<uint8_t*>(scale.end()));
      got.insert(got.end(), reinterpret_cast<uint8_t*>(sum.begin()), reinterpret_cast<uint8_t*>(sum.end()));
      if (i == count - 1) want = got;
      if (got == want) {
        ++total.passed;
      } else if (++total.failed <= 20) {
        std::printf("%s quantize: cols %lld group %lld round %d\n", all[i]->name, static_cast<long long>(m.cols), static_cast<long long>(m.activation_group), round);
      }
    }
  }
}

// What `build` must refuse, since kernels take its word for every size.
void check_build(Count& total) {
  const float levels[] = {-1.0f, 0.0f, 1.0f, INFINITY};
  const struct {
    int64_t rows, cols, group_size;
    int bits, n_levels;
    kbit::Status want;
  } cases[] = {
      {16, 64, 64, 2, 3, kbit::Status::ok},  {16, 40, -1, 2, 3, kbit::Status::ok},  {16, 40, 40, 2, 3, kbit::Status::ok},
      {16, 64, 80, 2, 3, kbit::Status::invalid_argument}, {16, 64, 1024, 2, 3, kbit::Status::invalid_argument},
      {16, 64, 24, 2, 3, kbit::Status::invalid_argument}, {16, 64, 0, 2, 3, kbit::Status::invalid_argument},
      {16, 64, -2, 2, 3, kbit::Status::invalid_argument}, {0, 64, 16, 2, 3, kbit::Status::invalid_argument},
      {16, 0, -1, 2, 3, kbit::Status::invalid_argument},  {16, 64, 16, 0, 1, kbit::Status::invalid_argument},
      {16, 64, 16, 9, 3, kbit::Status::invalid_argument}, {16, 64, 16, 1, 3, kbit::Status::invalid_argument},
      {16, 64, 16, 2, 4, kbit::Status::not_finite},
  };
  for (const auto& c : cases) {
    Matrix m{};
    m.rows = c.rows, m.cols = c.cols, m.bits = c.bits, m.group_size = c.group_size;
    const bool good = kbit::build(m, levels, c.n_levels) == c.want && (c.want != kbit::Status::ok || m.group_size <= m.cols);
    ++(good ? total.passed : total.failed);
    if (!good) std::printf("build: rows %lld cols %lld group %lld bits %d levels %d\n", static_cast<long long>(c.rows), static_cast<long long>(c.cols),
                           static_cast<long long>(c.group_size), c.bits, c.n_levels);
  }
}

// A roof that counted wrongly would flatter or shame every benchmark.
void check_roofs(Count& total) {
  const kbit::Kernels* all[8];
  const int count = kbit::available_kernels(all, 8);
  Guarded<uint8_t> data;
  data.resize(2 * 4096);
  data.randomize(rng);
  uint64_t want = 0;
  for (const uint8_t* p = data.begin(); p < data.end(); p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    want += word;
  }
  for (int i = 0; i < count; ++i) {
    const bool good = all[i]->read(data.begin(), 2 * 4096) == want && all[i]->dot_products(20) == 20 * all[i]->dot_products(1);
    ++(good ? total.passed : total.failed);
    if (!good) std::printf("%s: roofs\n", all[i]->name);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 240;
  Count total;
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool trellis : {false, true}) {
      if (trellis && bits > kbit::kTrellisBits) continue;
      check_small(bits, rounds, trellis, total);
      if (rounds >= 240) check_large(bits, trellis, total);
    }
  }
  check_build(total);
  check_choice(total);
  check_quantize(total);
  check_roofs(total);
  const kbit::Kernels* all[8];
  const int count = kbit::available_kernels(all, 8);
  std::printf("instruction sets:");
  for (int i = 0; i < count; ++i) std::printf(" %s", all[i]->name);
  std::printf("\n%lld passed, %lld failed\n", static_cast<long long>(total.passed), static_cast<long long>(total.failed));
  return total.failed == 0 ? 0 : 1;
}
