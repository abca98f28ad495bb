// Packing against planes re-computed field by field, and back: all bits, odd shapes, slices of rows, thread counts, codes out of range.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kbit/kbit.h"

namespace {

using namespace kbit::test;

std::mt19937 rng(5);

void test_packing(int bits, int64_t rows, int64_t cols, int threads) {
  const std::string name = "packing: bits " + std::to_string(bits) + " rows " + std::to_string(rows) + " cols " + std::to_string(cols);
  std::vector<uint8_t> codes(at(rows * cols));
  for (uint8_t& code : codes) code = static_cast<uint8_t>(rng() % (1u << bits));
  const std::vector<uint8_t> want = reference_planes(codes, rows, cols, bits);
  std::vector<uint8_t> planes(at(kbit::packed_bytes(rows, cols, bits)), 0xee);
  kbit::pack(codes.data(), rows, cols, bits, planes.data(), threads);
  expect(planes == want, name + ": planes differ");

  std::vector<uint8_t> back(codes.size(), 0xee);
  kbit::unpack(want.data(), rows, cols, bits, 0, rows, back.data(), threads);
  expect(back == codes, name + ": codes differ after a round trip");
  const int64_t first = rows / 3, last = rows - rows / 4;
  std::vector<uint8_t> part(at((last - first) * cols), 0xee);
  kbit::unpack(want.data(), rows, cols, bits, first, last, part.data(), threads);
  expect(std::equal(part.begin(), part.end(), codes.begin() + first * cols), name + ": a slice of rows differs");

  const int largest = *std::max_element(codes.begin(), codes.end());
  expect(kbit::check_codes(want.data(), rows, cols, bits, largest + 1, threads) == kbit::Status::ok, name + ": valid codes refused");
  if (largest > 0)
    expect(kbit::check_codes(want.data(), rows, cols, bits, largest, threads) == kbit::Status::code_out_of_range, name + ": a code too large accepted");
  if (rows % 16 != 0 || cols % 32 != 0) {  // one code in the padding, beside or below the matrix
    const bool below = cols % 32 == 0 || (rows % 16 != 0 && rng() % 2 == 0);
    const int64_t wide = cols + (below ? 0 : 1), high = rows + (below ? 1 : 0);
    std::vector<uint8_t> larger(at(high * wide), 0);
    larger[rng() % at(below ? cols : rows) * at(below ? 1 : wide) + at(below ? rows * wide : cols)] = 1;
    const std::vector<uint8_t> padded = reference_planes(larger, high, wide, bits);
    expect(kbit::check_codes(padded.data(), rows, cols, bits, 1 << bits, threads) == kbit::Status::code_out_of_range, name + ": padding accepted");
  }
}

}  // namespace

int main() {
  for (int bits = 1; bits <= 8; ++bits)
    for (const int64_t rows : {1, 15, 16, 17, 50})
      for (const int64_t cols : {1, 4, 31, 32, 33, 130}) test_packing(bits, rows, cols, 1 + static_cast<int>(rng() % 3));
  return close();
}
