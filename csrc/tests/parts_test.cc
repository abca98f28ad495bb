// Parts beside the codes, and pruned codes filled up, on every instruction set: byte for byte the plain ones, and near double precision.
// Every array ends at a page that may not be touched.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "half.h"
#include "tests/tables.h"

namespace {

using kbit::VectorOps;
using kbit::test::alike;
using kbit::test::at;
using kbit::test::bytes_of;
using kbit::test::expect;
using kbit::test::Guarded;
using kbit::test::near;
using kbit::test::one_of;

std::mt19937 rng(5);
constexpr int64_t kRows[] = {1, 15, 16, 17, 33, 50};
constexpr int64_t kInputs[] = {1, 7, 16, 31, 32, 33, 64, 100, 257};
constexpr int64_t kTokens[] = {1, 2, 3, 4, 5, 15, 16, 17, 21};

uint16_t half() { return static_cast<uint16_t>((rng() & 0x8000) | (0x3000 + rng() % 0x1000)); }  // 1/8 … 2

// A matrix with parts of all kinds, some of them missing.
struct Case {
  kbit::Matrix m{};
  kbit::Parts parts{};
  Guarded<uint8_t> counts, places;
  Guarded<uint16_t> values, columns;
  Guarded<int32_t> index;
  Guarded<int8_t> left, right;
  Guarded<float> scale;
  std::vector<int64_t> starts;
  std::vector<double> dense;  // what columns and outliers add, [rows, inputs]

  Case(int64_t rows, int64_t inputs) : dense(at(rows * inputs), 0.0) {
    m.rows = rows;
    m.cols = m.inputs = inputs;
    m.dims = 1;
    m.tiles = kbit::ceil_div(rows, kbit::kTileRows);
    m.kblocks = kbit::ceil_div(inputs, kbit::kBlockInputs);
    m.parts = &parts;
    if (rng() % 4 != 0) add_outliers();
    if (rng() % 2 != 0) add_columns();
    if (rng() % 2 != 0) add_low_rank();
  }

  void add_outliers() {
    const int64_t cells = kbit::ceil_div(m.inputs, kbit::kCellInputs);
    counts.resize(m.tiles * cells);
    std::vector<uint8_t> all;
    std::vector<uint16_t> numbers;
    starts.assign(1, 0);
    for (int64_t cell = 0; cell < m.tiles * cells; ++cell) {
      const int64_t row = cell / cells * kbit::kTileRows, col = cell % cells * kbit::kCellInputs;
      const unsigned share = rng() % 8 == 0 ? 2 : 60;  // of a full cell nearly half
      unsigned here = 0;
      for (int place = 0; place < 256; ++place) {
        const int64_t r = row + place % 16, c = col + place / 16;
        if (r >= m.rows || c >= m.inputs || rng() % share != 0 || here == 255) continue;
        all.push_back(static_cast<uint8_t>(place));
        numbers.push_back(half());
        dense[at(r * m.inputs + c)] += kbit::half_to_float(numbers.back());
        ++here;
      }
      counts.begin()[cell] = static_cast<uint8_t>(here);
      if ((cell + 1) % cells == 0) starts.push_back(static_cast<int64_t>(all.size()));
    }
    const auto count = static_cast<int64_t>(all.size());
    places.resize(count), values.resize(count);
    std::copy(all.begin(), all.end(), places.begin());
    std::copy(numbers.begin(), numbers.end(), values.begin());
    parts.outliers = {count, cells, counts.begin(), places.begin(), values.begin(), starts.data()};
  }

  void add_columns() {
    const int64_t count = std::min<int64_t>(m.inputs, 1 + static_cast<int64_t>(rng() % 5));
    index.resize(count), columns.resize(m.tiles * count * kbit::kTileRows);
    for (int64_t i = 0; i < count; ++i) index.begin()[i] = static_cast<int32_t>(i * m.inputs / count);
    for (int64_t i = 0; i < m.tiles * count * kbit::kTileRows; ++i) {
      const int64_t row = i / (count * kbit::kTileRows) * kbit::kTileRows + i % kbit::kTileRows;
      columns.begin()[i] = row < m.rows ? half() : uint16_t{0};
      if (row < m.rows) dense[at(row * m.inputs + index.begin()[i / kbit::kTileRows % count])] += kbit::half_to_float(columns.begin()[i]);
    }
    parts.columns = {count, index.begin(), columns.begin()};
  }

  void add_low_rank() {
    const auto rank = static_cast<int64_t>(1 + rng() % 9);
    left.resize(m.tiles * rank * kbit::kTileRows), right.resize(rank * m.inputs), scale.resize(rank);
    left.randomize(rng), right.randomize(rng);
    for (float& s : scale) s = 1e-4f * static_cast<float>(1 + rng() % 100);
    parts.low_rank = {rank, left.begin(), right.begin(), scale.begin()};
  }

  double factor(int64_t row, int64_t k) const {
    return left.begin()[(row / kbit::kTileRows * parts.low_rank.rank + k) * kbit::kTileRows + row % kbit::kTileRows];
  }
};

void test_sums(const Case& one, int64_t tokens) {
  const kbit::Matrix& m = one.m;
  const int64_t stride = m.inputs + static_cast<int64_t>(rng() % 3), rank = one.parts.low_rank.rank;
  std::normal_distribution<float> value;
  Guarded<float> x, before;
  x.resize((tokens - 1) * stride + m.inputs), before.resize(tokens * m.rows);
  for (float& v : x) v = value(rng);
  for (float& v : before) v = value(rng);
  alike("parts", [&](const VectorOps& ops) {
    Guarded<float> latent, y, turned;
    latent.resize(tokens * rank), y.resize(tokens * m.rows), turned.resize(16 * m.inputs);
    std::copy(before.begin(), before.end(), y.begin());
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t middle = rank / 2;  // shared out between workers
      ops.project(one.parts.low_rank, m.inputs, x.begin() + t * stride, 0, middle, latent.begin() + t * rank);
      ops.project(one.parts.low_rank, m.inputs, x.begin() + t * stride, middle, rank, latent.begin() + t * rank);
    }
    const int64_t middle = m.tiles / 2;
    ops.add_parts(m, x.begin(), stride, latent.begin(), rank, tokens, y.begin(), m.rows, 0, middle, turned.begin());
    ops.add_parts(m, x.begin(), stride, latent.begin(), rank, tokens, y.begin(), m.rows, middle, m.tiles, turned.begin());
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = x.begin() + t * stride;
      std::vector<double> projected(at(rank), 0.0);
      double largest = 1;
      for (int64_t k = 0; k < rank; ++k) {
        for (int64_t j = 0; j < m.inputs; ++j) projected[at(k)] += static_cast<double>(one.right.begin()[k * m.inputs + j]) * row[j];
        projected[at(k)] *= one.scale.begin()[k];
        largest += 128 * std::fabs(projected[at(k)]);
      }
      for (int64_t r = 0; r < m.rows; ++r) {
        double want = before.begin()[t * m.rows + r], size = largest;
        for (int64_t j = 0; j < m.inputs; ++j) {
          want += one.dense[at(r * m.inputs + j)] * row[j];
          size += std::fabs(one.dense[at(r * m.inputs + j)] * row[j]);
        }
        for (int64_t k = 0; k < rank; ++k) want += one.factor(r, k) * projected[at(k)];
        near("parts", y.begin()[t * m.rows + r], want, 1e-5 * size);
      }
    }
    return bytes_of(y);
  });
}

// Codes of random weights, as FORMAT.md says, and what they are filled up to.
void test_filling(int64_t rows, int64_t inputs, int bits, unsigned share) {
  kbit::Matrix m{};
  kbit::Parts parts{};
  m.rows = rows;
  m.cols = m.inputs = inputs;
  m.tiles = kbit::ceil_div(rows, kbit::kTileRows);
  m.kblocks = kbit::ceil_div(inputs, kbit::kBlockInputs);
  m.parts = &parts;
  const int64_t steps = m.kblocks * 8, kept = std::max<int64_t>(inputs * share / 100, 1);
  const bool inserts = bits < 8 && rng() % 2 != 0;
  const int inserted = inserts ? static_cast<int>(rng() % (1u << bits)) : 256;
  const auto zero = static_cast<uint8_t>(inserts ? static_cast<unsigned>(inserted) : rng() % (1u << bits));
  Guarded<uint8_t> mask, codes;
  mask.resize(m.tiles * steps * 8);
  std::fill(mask.begin(), mask.end(), uint8_t{0});
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<int64_t> order(at(inputs));
    for (int64_t i = 0; i < inputs; ++i) order[at(i)] = i;
    std::shuffle(order.begin(), order.end(), rng);
    for (int64_t i = 0; i < kept; ++i) {
      const int64_t bit = (row / 16 * steps + order[at(i)] / 4) * 64 + 4 * (row % 16) + order[at(i)] % 4;
      mask.begin()[bit / 8] = static_cast<uint8_t>(mask.begin()[bit / 8] | 1u << bit % 8);
    }
  }
  const int64_t tile_bytes = kbit::ceil_div(16 * kept * bits, 8);
  const int64_t last_rows = rows - (m.tiles - 1) * 16;
  codes.resize((m.tiles - 1) * tile_bytes + kbit::ceil_div(last_rows * kept * bits, 8));
  codes.randomize(rng);
  parts.pruned = {bits, mask.begin(), codes.begin(), static_cast<int64_t>(codes.end() - codes.begin()), tile_bytes, inserted, zero};
  std::vector<uint8_t> want;
  for (int64_t tile = 0; tile < m.tiles; ++tile) {
    int64_t bit = tile * tile_bytes * 8;
    for (int64_t place = tile * steps * 64; place < (tile + 1) * steps * 64; ++place) {
      unsigned code = 0;
      const bool there = (mask.begin()[place / 8] >> place % 8 & 1) != 0;
      for (int i = 0; there && i < bits; ++i, ++bit) code |= (codes.begin()[bit / 8] >> bit % 8 & 1u) << i;
      want.push_back(there ? static_cast<uint8_t>(code + (static_cast<int>(code) >= inserted ? 1 : 0)) : zero);
    }
  }
  alike("pruned codes", [&](const VectorOps& ops) {
    Guarded<uint8_t> planes;
    planes.resize(m.tiles * steps * 64);
    for (int64_t tile = 0; tile < m.tiles; ++tile) ops.fill_pruned(m, tile, tile + 1, planes.begin() + tile * steps * 64);
    const std::vector<uint8_t> found = bytes_of(planes);
    expect(found == want, "pruned codes of " + std::to_string(bits) + " bits");
    return found;
  });
}

}  // namespace

int main() {
  kbit::test::print_tables();
  for (const int64_t rows : kRows) {
    for (const int64_t inputs : kInputs) {
      for (int round = 0; round < 4; ++round) test_sums(Case(rows, inputs), one_of(rng, kTokens));
      for (int bits = 1; bits <= 8; ++bits) test_filling(rows, inputs, bits, static_cast<unsigned>(1 + rng() % 99));
    }
  }
  return kbit::test::close();
}
