// What the C++ tests share: counted expectations, random choices, and planes re-computed from the words of ARCHITECTURE.md.
#pragma once

#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

namespace kbit::test {

inline int64_t passed = 0, failed = 0;

inline void expect(bool good, const std::string& what) {
  good ? ++passed : ++failed;
  if (!good && failed <= 20) std::printf("%s\n", what.c_str());
}

// The closing line; 0 if nothing failed.
inline int close() {
  std::printf("%lld passed, %lld failed\n", static_cast<long long>(passed), static_cast<long long>(failed));
  return failed == 0 ? 0 : 1;
}

inline size_t at(int64_t index) { return static_cast<size_t>(index); }

template <class T, size_t Count>
T one_of(std::mt19937& rng, const T (&choices)[Count]) {
  return choices[rng() % Count];
}

inline const std::vector<int> kPlanes[] = {{}, {1}, {2}, {2, 1}, {4}, {4, 1}, {4, 2}, {4, 2, 1}, {8}};
constexpr int kSingleBits[] = {0, 1, 4, 5, 2, 3, 6, 7};  // bit of the four inputs 4s … 4s + 3 in a plane of width 1

// Walks the stored bytes in order and asks for each field which code it belongs to.
inline std::vector<uint8_t> reference_planes(const std::vector<uint8_t>& codes, int64_t rows, int64_t cols, int bits) {
  const int64_t tiles = (rows + 15) / 16, kblocks = (cols + 31) / 32;
  std::vector<uint8_t> planes;
  int below = bits;
  for (const int width : kPlanes[bits]) {
    below -= width;
    for (int64_t block = 0; block < tiles * kblocks; ++block)
      for (int byte = 0; byte < 64 * width; ++byte) {
        unsigned stored = 0;
        for (int field = 0; field < 8 / width; ++field) {
          const int64_t row = block / kblocks * 16 + byte % 64 / 4;
          const int64_t col = block % kblocks * 32 + byte / 64 * (32 / width) + 4 * field + byte % 4;
          const unsigned code = row < rows && col < cols ? codes[at(row * cols + col)] : 0;
          stored |= (code >> below & ((1u << width) - 1)) << (width == 1 ? kSingleBits[field] : field * width);
        }
        planes.push_back(static_cast<uint8_t>(stored));
      }
  }
  return planes;
}

}  // namespace kbit::test
